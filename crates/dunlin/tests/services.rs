//! Programs that serve: what their clients see, before a stop and after it.

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr};
use std::time::Duration;

use common::{Scratch, built};

/// A service that runs, and its messages.
struct Service {
    child: Child,
    messages: BufReader<ChildStderr>,
    address: String,
}

impl Service {
    fn start(scratch: &Scratch, arguments: &[&str]) -> Self {
        let mut child = scratch.spawn(arguments);
        let mut messages = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        messages.read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit_once("listens on ").unwrap_or_else(|| panic!("{line}")).1.to_owned();
        Self { child, messages, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let mut said = String::new();
        self.messages.read_to_string(&mut said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{said}");
        assert!(said.contains("stopped"), "{said}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response: its head, and its body of `Content-Length` bytes or in chunks.
fn response(stream: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the connection ends in {head}");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map(|length| length.parse().unwrap());
    let mut body = Vec::new();
    let mut take = |stream: &mut BufReader<TcpStream>, length: usize, kept: usize| {
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..]).unwrap();
        body.truncate(start + kept);
    };
    match length {
        Some(length) => take(stream, length, length),
        None => loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            take(stream, length + 2, length);
            if length == 0 {
                break;
            }
        },
    }
    (head, body)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[(at % 8) as usize]).collect()
}

#[test]
fn an_http_server_streams_and_goes_on() {
    let scratch = Scratch::new("serve-http");
    let http = built("http");
    let offer = ["--listen", "127.0.0.1:0", "--connections", "close", "--snapshot", "http.snap"];
    let service = Service::start(&scratch, &[&["run"], &offer[..], &[http.to_str().unwrap()]].concat());
    let mut stream = BufReader::new(service.connect());
    // Several at once, and bodies larger than any buffer.
    let large = 3_000_001;
    let requests =
        format!("GET /bytes/{large} HTTP/1.1\r\n\r\nHEAD /bytes/7 HTTP/1.1\r\n\r\nGET /chunks/200005 HTTP/1.1\r\n\r\n");
    stream.get_mut().write_all(requests.as_bytes()).unwrap();
    assert!(response(&mut stream).1 == pattern(large));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        stream.read_line(&mut head).unwrap();
    }
    assert!(head.contains("Content-Length: 7"), "{head}");
    assert!(response(&mut stream).1 == pattern(200_005));
    let body = pattern(700_000);
    let mut writer = stream.get_ref().try_clone().unwrap();
    let sent = body.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for piece in sent.chunks(9000) {
            writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
            writer.write_all(piece).unwrap();
            writer.write_all(b"\r\n").unwrap();
        }
        writer.write_all(b"0\r\n\r\n").unwrap();
    });
    assert!(response(&mut stream).1 == body);
    thread.join().unwrap();
    stream.get_mut().write_all(b"GET /clock HTTP/1.1\r\n\r\n").unwrap();
    let clock = |body: &[u8]| -> u64 { str::from_utf8(body).unwrap().split(' ').next().unwrap().parse().unwrap() };
    let before = clock(&response(&mut stream).1);
    stream.get_mut().write_all(b"nonsense\r\n\r\n").unwrap();
    assert!(response(&mut stream).0.starts_with("HTTP/1.1 400 "));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "who does not speak HTTP is let go");
    // One that is in the middle of a body must not keep the service from stopping.
    let _slow = {
        let mut slow = service.connect();
        slow.write_all(b"GET /bytes/100000000000 HTTP/1.1\r\n\r\n").unwrap();
        slow.read_exact(&mut [0; 100_000]).unwrap();
        slow
    };
    service.stop();

    let service = Service::start(&scratch, &[&["restore", "--tier", "pulley"], &offer[..], &["http.snap"]].concat());
    let mut stream = BufReader::new(service.connect());
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\n\r\nGET /clock HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(response(&mut stream).1, b"hello 7\n", "it has counted on");
    assert!(clock(&response(&mut stream).1) >= before, "its clock did not go back");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

fn ask(stream: &mut TcpStream, command: &str) -> String {
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut reply = [0; 4096];
    let length = stream.read(&mut reply).unwrap();
    String::from_utf8_lossy(&reply[..length]).into_owned()
}

#[test]
fn keys_end_when_they_should_across_a_stop() {
    let scratch = Scratch::new("serve-kv");
    let kv = built("kv");
    let offer = ["--listen", "127.0.0.1:0", "--connections", "close", "--snapshot", "kv.snap"];
    let few = ["run", "--limit-descriptors", "8"];
    let service = Service::start(&scratch, &[&few, &offer[..], &[kv.to_str().unwrap()]].concat());
    let mut stream = service.connect();
    assert_eq!(ask(&mut stream, "DEBUG POPULATE 100 key 50"), "+OK\r\n");
    assert_eq!(ask(&mut stream, "SET short x PX 200"), "+OK\r\n");
    assert_eq!(ask(&mut stream, "SET long x EX 100000"), "+OK\r\n");
    assert_eq!(ask(&mut stream, "DBSIZE"), ":102\r\n");
    // More connections than there are descriptors: those beyond wait until others leave.
    let mut many: Vec<TcpStream> = (0..9).map(|_| service.connect()).collect();
    for stream in &mut many {
        stream.write_all(b"PING\r\n").unwrap();
    }
    let mut served = 0;
    while let Some(mut stream) = (!many.is_empty()).then(|| many.remove(0)) {
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
        served += 1;
    }
    assert_eq!(served, 9);
    // The key ends while the service waits, without anybody who asks for it.
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(ask(&mut stream, "DBSIZE"), ":101\r\n");
    assert_eq!(ask(&mut stream, "SET later x PX 1500"), "+OK\r\n");
    let digest = ask(&mut stream, "DEBUG DIGEST");
    service.stop();
    // Time in transit does not pass for the program.
    std::thread::sleep(Duration::from_millis(1600));

    let service = Service::start(&scratch, &[&["restore", "--tier", "wasmi"], &offer[..], &["kv.snap"]].concat());
    let mut stream = service.connect();
    let left: u64 = ask(&mut stream, "TTL long").trim_start_matches(':').trim_end().parse().unwrap();
    assert!((1..=100_000).contains(&left), "{left}");
    assert_eq!(ask(&mut stream, "EXISTS later"), ":1\r\n");
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(ask(&mut stream, "EXISTS later"), ":0\r\n");
    assert_eq!(ask(&mut stream, "SET later x"), "+OK\r\n");
    assert_eq!(ask(&mut stream, "DEBUG DIGEST"), digest, "all the rest is as it was");
}
