//! Why there is no session, or none any more.

use std::io;
use std::time::Duration;

use crate::handshake::PROTOCOL;
use crate::identity::CERTIFICATE_NAME;

/// Why there is no session, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream under the session failed.
    #[error("the stream under the encrypted session failed")]
    Io(#[source] io::Error),
    /// The stream ended in the middle.
    #[error("the stream ended before the other side had said all; somebody on the way cut it")]
    Cut,
    /// The other side was too slow.
    #[error("the other side did not finish the handshake within {0:?}")]
    TooSlow(Duration),
    /// The other side's certificate is refused.
    #[error("the other side's certificate is refused")]
    Peer(#[source] PeerError),
    /// The other side speaks something else, or an older TLS.
    #[error("the other side does not speak what this one speaks (mutual TLS 1.3, protocol {protocol:?}): {what}")]
    Incompatible {
        /// The name of the protocol.
        protocol: &'static str,
        /// What it does not speak.
        what: String,
    },
    /// The other side refused.
    #[error("the other side ended the session with the alert {0}; its log says why")]
    Refused(String),
    /// The other side broke the rules of TLS, or somebody on the way changed bytes.
    #[error("what came is not a TLS session's next message")]
    Protocol(#[source] rustls::Error),
    /// Own certificate and key are unusable.
    #[error("the own certificate and key are unusable: {0}")]
    Identity(String),
    /// A root is unusable.
    #[error("the root certificate of provider {provider:?} is unusable: {what}")]
    Root {
        /// The provider.
        provider: String,
        /// What is wrong.
        what: String,
    },
}

/// What is wrong with the other side's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It sent none.
    #[error("it has none; a session without one is for nobody")]
    None,
    /// No root of any known provider signed it.
    #[error("no known provider signed it; known are {0:?}")]
    UnknownProvider(Vec<String>),
    /// It is out of date, or not yet valid.
    #[error("it is not valid at this time; ask its provider for a fresh one, or check the clock")]
    NotValidNow,
    /// A provider signed it for something else.
    #[error("provider {0:?} signed it, but not for a keep; such a certificate bears the name {CERTIFICATE_NAME:?}")]
    OtherName(String),
    /// It is of a known provider, but not of the one that was expected.
    #[error("it is of provider {found:?}, expected was {expected:?}")]
    OtherProvider {
        /// Of the certificate.
        found: String,
        /// Wanted.
        expected: String,
    },
    /// It is not a certificate for this purpose.
    #[error("it is not a sound certificate for a session between machines: {0}")]
    Unsound(String),
}

impl Error {
    pub(crate) fn of_tls(error: rustls::Error) -> Self {
        use rustls::Error as Tls;
        let protocol = PROTOCOL;
        match error {
            Tls::NoCertificatesPresented => Self::Peer(PeerError::None),
            Tls::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            Tls::PeerIncompatible(what) => Self::Incompatible { protocol, what: format!("{what:?}") },
            Tls::NoApplicationProtocol => {
                Self::Incompatible { protocol, what: "no common application protocol".to_owned() }
            }
            other => Self::Protocol(other),
        }
    }

    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Cut => io::Error::new(io::ErrorKind::UnexpectedEof, Self::Cut),
            Self::Refused(alert) => io::Error::new(io::ErrorKind::ConnectionAborted, Self::Refused(alert)),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}
