//! Where clients reach a service: sockets that the node binds and lends to keeps. While the service is elsewhere, the node
//! accepts on them itself.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};

use crate::error::NodeError;

/// A listening socket of a service.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) socket: TcpListener,
}

/// Binds what a service asks for. What was bound before comes first, so that clients find it again. An address that is
/// taken or of another machine gives way to a free port of the same address, then of `host`: two nodes of one machine
/// cannot both have the address that the service asked for.
pub(crate) fn bind(asked: &[String], before: &[String], host: IpAddr, own: bool) -> Result<Vec<Bound>, NodeError> {
    asked.iter().enumerate().map(|(index, asked)| bind_one(asked, before.get(index), host, own)).collect()
}

fn bind_one(asked: &str, before: Option<&String>, host: IpAddr, own: bool) -> Result<Bound, NodeError> {
    let failed = |source| NodeError::Listen { address: asked.to_owned(), source };
    let resolved = asked.to_socket_addrs().and_then(|mut found| found.next().ok_or(io::ErrorKind::NotFound.into()));
    let first = resolved.map_err(failed)?;
    let mut wanted: Vec<SocketAddr> = before.and_then(|address| address.parse().ok()).into_iter().collect();
    wanted.push(first);
    if !own {
        // It came from another node and must not fail for want of a port.
        wanted.extend([SocketAddr::new(first.ip(), 0), SocketAddr::new(host, first.port()), SocketAddr::new(host, 0)]);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in wanted {
        match TcpListener::bind(address) {
            Ok(socket) => {
                let address = socket.local_addr().map_err(failed)?;
                return Ok(Bound { address, socket });
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_taken_gives_way_only_to_those_who_come() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = bind(&["127.0.0.1:0".to_owned()], &[], host, true).unwrap();
        let taken = first[0].address.to_string();
        assert!(bind(std::slice::from_ref(&taken), &[], host, true).is_err());
        let other = bind(std::slice::from_ref(&taken), &[], host, false).unwrap();
        assert_ne!(other[0].address, first[0].address);
        // An address of another machine.
        let elsewhere = bind(&["192.0.2.1:0".to_owned()], &[], host, false).unwrap();
        assert_eq!(elsewhere[0].address.ip(), host);
        drop(first);
        let again = bind(&["127.0.0.1:0".to_owned()], std::slice::from_ref(&taken), host, true).unwrap();
        assert_eq!(again[0].address.to_string(), taken);
    }
}
