//! Heads and bodies of requests.

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
}

/// The head of a request.
pub struct Head {
    pub method: Method,
    pub path: String,
    pub body: Body,
    /// The connection ends with this exchange.
    pub close: bool,
    /// The peer sends its body only when it is told to go on.
    pub expects: bool,
}

/// What is still to come of a body.
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// A chunk's size line, after the line end of the one before if `inside`.
    Size { inside: bool },
    /// This many bytes of a chunk.
    Chunk(u64),
    /// Trailers until an empty line.
    Trailers,
    /// Nothing.
    Over,
}

/// No size line or trailer may be longer.
const LONGEST_LINE: usize = 8 << 10;

impl Body {
    /// How long it is, unless it comes in chunks.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(*length),
            Self::Over => Some(0),
            _ => None,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over | Self::Length(0))
    }

    /// Gives what is there of the body to `each` and tells how many bytes of the input are used. Nothing if the peer
    /// made a mistake.
    pub fn take(&mut self, input: &[u8], mut each: impl FnMut(&[u8])) -> Option<usize> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self {
                Self::Over => return Some(used),
                Self::Length(left) | Self::Chunk(left) => {
                    let count = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if count > 0 {
                        each(&rest[..count]);
                    }
                    used += count;
                    *left -= count as u64;
                    match (*left, &self) {
                        (0, Self::Chunk(_)) => *self = Self::Size { inside: true },
                        _ => return Some(used),
                    }
                }
                Self::Size { inside } => {
                    let Some(line) = line(rest)? else { return Some(used) };
                    used += line.len();
                    let text = str::from_utf8(line).ok()?.trim_end();
                    if std::mem::take(inside) {
                        if !text.is_empty() {
                            return None;
                        }
                        continue;
                    }
                    let digits = text.split(';').next().unwrap_or(text).trim();
                    *self = match u64::from_str_radix(digits, 16).ok()? {
                        0 => Self::Trailers,
                        length => Self::Chunk(length),
                    };
                }
                Self::Trailers => {
                    let Some(line) = line(rest)? else { return Some(used) };
                    used += line.len();
                    if line == b"\r\n" || line == b"\n" {
                        *self = Self::Over;
                    }
                }
            }
        }
    }
}

/// The first line with its end, if it is all there. Nothing if it is too long.
#[expect(clippy::option_option, reason = "the outer one is the peer's mistake, the inner one patience")]
fn line(input: &[u8]) -> Option<Option<&[u8]>> {
    match input.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') {
        Some(end) => Some(Some(&input[..=end])),
        None => (input.len() < LONGEST_LINE).then_some(None),
    }
}

/// The head at the front of `input` and its length; nothing if it is not all there yet. An error is the peer's mistake.
pub fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, ()> {
    let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let text = str::from_utf8(&input[..end]).map_err(|_| ())?;
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else { return Err(()) };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" | "PUT" => Method::Post,
        _ => return Err(()),
    };
    let mut head = Head {
        method,
        path: target.split('?').next().unwrap_or(target).to_owned(),
        body: Body::Over,
        close: version == "HTTP/1.0",
        expects: false,
    };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(())?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if matches!(head.body, Body::Over) => {
                head.body = Body::Length(value.parse().map_err(|_| ())?);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") && matches!(head.body, Body::Over) => {
                head.body = Body::Size { inside: false };
            }
            // Both, or one twice, is how requests are smuggled.
            "content-length" | "transfer-encoding" => return Err(()),
            "connection" if value.eq_ignore_ascii_case("close") => head.close = true,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => head.close = false,
            "expect" if value.eq_ignore_ascii_case("100-continue") => head.expects = true,
            _ => {}
        }
    }
    Ok(Some((head, end + 4)))
}
