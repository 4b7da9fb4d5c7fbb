//! The data and what each command does to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crate::expiries::Expiries;
use crate::resp::Reply;
use crate::values::{Bytes, Members, Scores, Value};

type Answer = Result<Reply, String>;

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_FLOAT: &str = "ERR value is not a valid float";
const OK: Reply = Reply::Simple("OK");

#[derive(Default)]
pub struct Store {
    keys: HashMap<Bytes, Value>,
    expiries: Expiries,
    picks: u64,
    commands: u64,
}

/// Declares a function that finds a key's value of one type, or makes an empty one.
macro_rules! typed {
    ($name:ident, $kind:ident, $type:ty) => {
        fn $name(&mut self, key: &[u8]) -> Result<&mut $type, String> {
            match self.keys.entry(key.to_vec()).or_insert_with(|| Value::$kind(Default::default())) {
                Value::$kind(value) => Ok(value),
                _ => Err(WRONG_TYPE.into()),
            }
        }
    };
}

impl Store {
    typed!(fields, Fields, BTreeMap<Bytes, Bytes>);
    typed!(list, List, VecDeque<Bytes>);
    typed!(members, Members, Members);
    typed!(scores, Scores, Scores);
    typed!(string, String, Bytes);

    /// Carries out one command.
    pub fn run(&mut self, parts: &[&[u8]]) -> Reply {
        let name = String::from_utf8_lossy(parts[0]).to_ascii_uppercase();
        let args = &parts[1..];
        self.commands += 1;
        self.forget_expired();
        let answer = self.dispatch(&name, args).unwrap_or_else(Reply::Error);
        // An empty collection is no key at all.
        if let Some(key) = args.first()
            && self.keys.get(*key).is_some_and(Value::is_empty_collection)
        {
            self.keys.remove(*key);
            self.expiries.remove(key);
        }
        answer
    }

    fn dispatch(&mut self, name: &str, args: &[&[u8]]) -> Answer {
        match (name, args) {
            ("PING", []) => Ok(Reply::Simple("PONG")),
            ("PING" | "ECHO", [text]) => Ok(bytes(text)),
            ("SELECT", [_]) | ("CLIENT", [_, ..]) => Ok(OK),
            ("COMMAND", _) => Ok(Reply::Array(Vec::new())),
            ("CONFIG", [word, names @ ..]) if word.eq_ignore_ascii_case(b"GET") => {
                Ok(Reply::Array(names.iter().flat_map(|name| [bytes(name), bytes(b"")]).collect()))
            }
            ("CONFIG", [_, ..]) => Ok(OK),
            ("INFO", _) => Ok(self.info()),
            ("DEBUG", [word, ..]) if word.eq_ignore_ascii_case(b"DIGEST") => Ok(self.digest()),
            ("DEBUG", [word, count, prefix, size]) if word.eq_ignore_ascii_case(b"POPULATE") => {
                self.populate(integer(count)?, prefix, integer(size)?)
            }
            ("TIME", []) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Ok(Reply::Array(vec![text(now.as_secs()), text(now.subsec_micros())]))
            }
            ("DBSIZE", []) => Ok(count(self.keys.len())),
            ("FLUSHALL" | "FLUSHDB", _) => {
                self.keys.clear();
                self.expiries.clear();
                Ok(OK)
            }

            ("SET", [key, value]) => Ok(self.set(key, value)),
            ("SET", [key, value, options @ ..]) => self.set_with(key, value, options),
            ("SETNX", [key, value]) => match self.keys.contains_key(*key) {
                true => Ok(count(0)),
                false => {
                    self.set(key, value);
                    Ok(count(1))
                }
            },
            ("SETEX", [key, seconds, value]) => self.set_with(key, value, &[b"EX", seconds]),
            ("PSETEX", [key, millis, value]) => self.set_with(key, value, &[b"PX", millis]),
            ("GETSET", [key, value]) => self.set_with(key, value, &[b"GET"]),
            ("GETDEL", [key]) => {
                let before = self.string_or_wrong(key)?;
                self.remove(key);
                Ok(before)
            }
            ("STRLEN", [key]) => {
                Ok(count(if let Reply::Bytes(value) = self.string_or_wrong(key)? { value.len() } else { 0 }))
            }
            ("MSET", pairs) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                for pair in pairs.chunks_exact(2) {
                    self.set(pair[0], pair[1]);
                }
                Ok(OK)
            }
            ("GET", [key]) => self.string_or_wrong(key),
            ("MGET", [_, ..]) => Ok(Reply::Array(args.iter().map(|key| self.string_or_nil(key)).collect())),
            ("APPEND", [key, more]) => {
                let value = self.string(key)?;
                value.extend_from_slice(more);
                Ok(count(value.len()))
            }
            ("INCR", [key]) => self.add(key, 1),
            ("DECR", [key]) => self.add(key, -1),
            ("INCRBY", [key, by]) => self.add(key, integer(by)?),
            ("DECRBY", [key, by]) => self.add(key, integer(by)?.checked_neg().ok_or(NOT_INTEGER)?),
            ("TYPE", [key]) => Ok(Reply::Simple(self.keys.get(*key).map_or("none", Value::name))),
            ("EXISTS", [_, ..]) => Ok(count(args.iter().filter(|key| self.keys.contains_key(**key)).count())),
            ("DEL" | "UNLINK", [_, ..]) => Ok(count(args.iter().filter(|key| self.remove(key)).count())),
            ("RENAME", [from, to]) => {
                let value = self.keys.remove(*from).ok_or("ERR no such key")?;
                let moment = self.expiries.of(from);
                self.expiries.remove(from);
                self.expiries.remove(to);
                self.keys.insert(to.to_vec(), value);
                moment.into_iter().for_each(|moment| self.expiries.set(to, moment));
                Ok(OK)
            }
            ("KEYS", [pattern]) => {
                let mut keys: Vec<&Bytes> = self.keys.keys().filter(|key| matches_glob(pattern, key)).collect();
                keys.sort();
                Ok(Reply::Array(keys.into_iter().map(|key| bytes(key)).collect()))
            }
            ("EXPIRE", [key, seconds]) => {
                let seconds = integer(seconds)?;
                Ok(count(self.expire(key, seconds.saturating_mul(1000))))
            }
            ("PEXPIRE", [key, millis]) => {
                let millis = integer(millis)?;
                Ok(count(self.expire(key, millis)))
            }
            ("TTL", [key]) => Ok(Reply::Integer(self.left(key, 1000))),
            ("PTTL", [key]) => Ok(Reply::Integer(self.left(key, 1))),
            ("PERSIST", [key]) => Ok(count(self.expiries.remove(key).into())),

            ("LPUSH", [key, values @ ..]) if !values.is_empty() => {
                let list = self.list(key)?;
                values.iter().for_each(|value| list.push_front(value.to_vec()));
                Ok(count(list.len()))
            }
            ("RPUSH", [key, values @ ..]) if !values.is_empty() => {
                let list = self.list(key)?;
                values.iter().for_each(|value| list.push_back(value.to_vec()));
                Ok(count(list.len()))
            }
            ("LPOP", [key]) => Ok(self.list(key)?.pop_front().map_or(Reply::Nil, Reply::Bytes)),
            ("RPOP", [key]) => Ok(self.list(key)?.pop_back().map_or(Reply::Nil, Reply::Bytes)),
            ("LINDEX", [key, index]) => {
                let list = self.list(key)?;
                let index = integer(index)?;
                let place = if index < 0 { index.saturating_add(list.len() as i64) } else { index };
                let value = usize::try_from(place).ok().and_then(|place| list.get(place));
                Ok(value.map_or(Reply::Nil, |value| bytes(value)))
            }
            ("LLEN", [key]) => Ok(count(self.list(key)?.len())),
            ("LRANGE", [key, first, last]) => {
                let list = self.list(key)?;
                let (start, length) = range(integer(first)?, integer(last)?, list.len());
                Ok(Reply::Array(list.iter().skip(start).take(length).map(|value| bytes(value)).collect()))
            }

            ("HSET", [key, pairs @ ..]) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                let fields = self.fields(key)?;
                let before = fields.len();
                for pair in pairs.chunks_exact(2) {
                    fields.insert(pair[0].to_vec(), pair[1].to_vec());
                }
                Ok(count(fields.len() - before))
            }
            ("HGET", [key, field]) => Ok(self.fields(key)?.get(*field).map_or(Reply::Nil, |value| bytes(value))),
            ("HDEL", [key, names @ ..]) if !names.is_empty() => {
                let fields = self.fields(key)?;
                Ok(count(names.iter().filter(|name| fields.remove(**name).is_some()).count()))
            }
            ("HLEN", [key]) => Ok(count(self.fields(key)?.len())),
            ("HGETALL", [key]) => {
                let fields = self.fields(key)?.iter();
                Ok(Reply::Array(fields.flat_map(|(field, value)| [bytes(field), bytes(value)]).collect()))
            }

            ("SADD", [key, values @ ..]) if !values.is_empty() => {
                let members = self.members(key)?;
                Ok(count(values.iter().filter(|value| members.insert(value)).count()))
            }
            ("SREM", [key, values @ ..]) if !values.is_empty() => {
                let members = self.members(key)?;
                Ok(count(values.iter().filter(|value| members.remove(value)).count()))
            }
            ("SMEMBERS", [key]) => Ok(Reply::Array(self.members(key)?.list.iter().map(|value| bytes(value)).collect())),
            ("SCARD", [key]) => Ok(count(self.members(key)?.list.len())),
            ("SISMEMBER", [key, value]) => Ok(count(self.members(key)?.places.contains_key(*value).into())),
            ("SPOP", [key]) => {
                self.picks = self.picks.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let pick = (self.picks >> 33) as usize;
                Ok(self.members(key)?.take(pick).map_or(Reply::Nil, Reply::Bytes))
            }

            ("ZADD", [key, pairs @ ..]) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                let pairs: Vec<(f64, &[u8])> =
                    pairs.chunks_exact(2).map(|pair| Ok((float(pair[0])?, pair[1]))).collect::<Result<_, String>>()?;
                let scores = self.scores(key)?;
                Ok(count(pairs.into_iter().filter(|(score, member)| scores.insert(member, *score)).count()))
            }
            ("ZREM", [key, names @ ..]) if !names.is_empty() => {
                let scores = self.scores(key)?;
                Ok(count(names.iter().filter(|name| scores.remove(name)).count()))
            }
            ("ZCARD", [key]) => Ok(count(self.scores(key)?.scores.len())),
            ("ZSCORE", [key, member]) => {
                let score = self.scores(key)?.scores.get(*member);
                Ok(score.map_or(Reply::Nil, text))
            }
            ("ZPOPMIN", [key]) => {
                let least = self.scores(key)?.take_least();
                Ok(Reply::Array(
                    least.into_iter().flat_map(|(member, score)| [Reply::Bytes(member), text(score)]).collect(),
                ))
            }
            ("ZRANGE", [key, first, last]) => {
                let scores = self.scores(key)?;
                let (start, length) = range(integer(first)?, integer(last)?, scores.order.len());
                Ok(Reply::Array(
                    scores.order.iter().skip(start).take(length).map(|(_, member)| bytes(member)).collect(),
                ))
            }

            _ => Err(format!("ERR unknown command '{name}' or wrong number of arguments")),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Reply {
        self.expiries.remove(key);
        self.keys.insert(key.to_vec(), Value::String(value.to_vec()));
        OK
    }

    fn set_with(&mut self, key: &[u8], value: &[u8], options: &[&[u8]]) -> Answer {
        const SYNTAX: &str = "ERR syntax error";
        let (mut time, mut keep, mut get, mut wanted) = (None, false, false, None);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"EX" => time = Some(integer(options.next().ok_or(SYNTAX)?)?.saturating_mul(1000)),
                b"PX" => time = Some(integer(options.next().ok_or(SYNTAX)?)?),
                b"KEEPTTL" => keep = true,
                b"GET" => get = true,
                b"NX" => wanted = Some(false),
                b"XX" => wanted = Some(true),
                _ => return Err(SYNTAX.into()),
            }
        }
        let before = if get { Some(self.string_or_wrong(key)?) } else { None };
        if wanted.is_some_and(|wanted| wanted != self.keys.contains_key(key)) {
            return Ok(before.unwrap_or(Reply::Nil));
        }
        let moment = self.expiries.of(key);
        self.set(key, value);
        match (time, moment) {
            (Some(time), _) => _ = self.expire(key, time),
            (None, Some(moment)) if keep => self.expiries.set(key, moment),
            _ => {}
        }
        Ok(before.unwrap_or(OK))
    }

    /// Whether there was one.
    fn remove(&mut self, key: &[u8]) -> bool {
        self.expiries.remove(key);
        self.keys.remove(key).is_some()
    }

    fn string_or_nil(&self, key: &[u8]) -> Reply {
        self.string_or_wrong(key).unwrap_or(Reply::Nil)
    }

    fn string_or_wrong(&self, key: &[u8]) -> Answer {
        match self.keys.get(key) {
            None => Ok(Reply::Nil),
            Some(Value::String(value)) => Ok(bytes(value)),
            Some(_) => Err(WRONG_TYPE.into()),
        }
    }

    fn info(&self) -> Reply {
        let (keys, expires) = (self.keys.len(), self.expiries.len());
        Reply::Bytes(
            format!(
                "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\n\r\n\
                 # Stats\r\ntotal_commands_processed:{}\r\n\r\n\
                 # Keyspace\r\ndb0:keys={keys},expires={expires},avg_ttl=0\r\n",
                self.commands
            )
            .into_bytes(),
        )
    }

    /// FNV-1a over everything that is stored, whatever the order in which it came.
    fn digest(&self) -> Reply {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |bytes: &[u8]| {
            for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        };
        let mut keys: Vec<(&Bytes, &Value)> = self.keys.iter().collect();
        keys.sort_by_key(|(key, _)| *key);
        for (key, value) in keys {
            mix(key);
            mix(value.name().as_bytes());
            value.each(&mut mix);
        }
        Reply::Bytes(format!("{hash:016x}").into_bytes())
    }

    /// Makes strings `PREFIX:0`, `PREFIX:1`, … of `size` bytes that differ from each other.
    fn populate(&mut self, count: i64, prefix: &[u8], size: i64) -> Answer {
        let size = usize::try_from(size).map_err(|_| NOT_INTEGER)?;
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        for index in 0..count {
            let key = [prefix, b":", index.to_string().as_bytes()].concat();
            let mut value = Vec::with_capacity(size);
            while value.len() < size {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                let more = (size - value.len()).min(8);
                value.extend_from_slice(&word.to_le_bytes()[..more]);
            }
            self.keys.entry(key).or_insert(Value::String(value));
        }
        Ok(OK)
    }

    fn add(&mut self, key: &[u8], by: i64) -> Answer {
        let before = match self.keys.get(key) {
            None => 0,
            Some(Value::String(value)) => integer(value)?,
            Some(_) => return Err(WRONG_TYPE.into()),
        };
        let after = before.checked_add(by).ok_or(NOT_INTEGER)?;
        *self.string(key)? = after.to_string().into_bytes();
        Ok(Reply::Integer(after))
    }

    /// Whether there is such a key; a time that is past removes it.
    fn expire(&mut self, key: &[u8], millis: i64) -> usize {
        if !self.keys.contains_key(key) {
            return 0;
        }
        let wait = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        // A moment past the clock's end never comes.
        match Instant::now().checked_add(wait) {
            Some(moment) => self.expiries.set(key, moment),
            None => _ = self.expiries.remove(key),
        }
        self.forget_expired();
        1
    }

    /// The time left of a key, in units of so many milliseconds.
    fn left(&self, key: &[u8], unit: u128) -> i64 {
        match (self.keys.contains_key(key), self.expiries.of(key)) {
            (false, _) => -2,
            (true, None) => -1,
            (true, Some(moment)) => {
                let left = moment.saturating_duration_since(Instant::now());
                i64::try_from(left.as_millis().div_ceil(unit)).unwrap_or(i64::MAX)
            }
        }
    }

    /// When the next key ends.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.next()
    }

    /// Removes every key whose time is over.
    pub fn forget_expired(&mut self) {
        if self.expiries.next().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(key) = self.expiries.take_due(now) {
            self.keys.remove(&key);
        }
    }
}

/// First index and length of what Redis calls `first..last`: inclusive, negative from the end.
fn range(first: i64, last: i64, length: usize) -> (usize, usize) {
    let length = length as i64;
    let from_start = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
    let (first, last) = (from_start(first).max(0), from_start(last).min(length - 1));
    if first > last { (0, 0) } else { (first as usize, (last - first + 1) as usize) }
}

fn integer(text: &[u8]) -> Result<i64, String> {
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| NOT_INTEGER.into())
}

fn float(text: &[u8]) -> Result<f64, String> {
    let number = str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    number.filter(|number| !number.is_nan()).ok_or_else(|| NOT_FLOAT.into())
}

fn bytes(value: &[u8]) -> Reply {
    Reply::Bytes(value.to_vec())
}

fn count(value: usize) -> Reply {
    Reply::Integer(value as i64)
}

fn text(value: impl ToString) -> Reply {
    Reply::Bytes(value.to_string().into_bytes())
}

/// Whether `text` is what `pattern` describes, with `*` for anything and `?` for any byte.
fn matches_glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when the last star must take one byte more.
    let (mut at, mut begin, mut again) = (0, 0, None);
    while begin < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                again = Some((at, begin));
            }
            Some(byte) if *byte == b'?' || *byte == text[begin] => {
                at += 1;
                begin += 1;
            }
            _ => {
                let Some((star, from)) = again else { return false };
                (at, begin) = (star, from + 1);
                again = Some((star, from + 1));
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}
