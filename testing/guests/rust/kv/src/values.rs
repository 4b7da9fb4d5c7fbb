//! What a key can hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

pub type Bytes = Vec<u8>;

pub enum Value {
    Fields(BTreeMap<Bytes, Bytes>),
    List(VecDeque<Bytes>),
    Members(Members),
    Scores(Scores),
    String(Bytes),
}

/// A set from which any member can be taken at once.
#[derive(Default)]
pub struct Members {
    pub list: Vec<Bytes>,
    pub places: HashMap<Bytes, usize>,
}

/// A set ordered by score, then by member.
#[derive(Default)]
pub struct Scores {
    pub scores: HashMap<Bytes, f64>,
    pub order: BTreeSet<(u64, Bytes)>,
}

impl Value {
    /// What Redis calls this type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fields(_) => "hash",
            Self::List(_) => "list",
            Self::Members(_) => "set",
            Self::Scores(_) => "zset",
            Self::String(_) => "string",
        }
    }

    /// Gives everything in it, in an order that does not depend on how it came there unless that is seen.
    pub fn each(&self, mut each: impl FnMut(&[u8])) {
        match self {
            Self::Fields(fields) => fields.iter().for_each(|(field, value)| {
                each(field);
                each(value);
            }),
            Self::List(list) => list.iter().for_each(|value| each(value)),
            Self::Members(members) => {
                let mut list: Vec<&Bytes> = members.list.iter().collect();
                list.sort();
                list.into_iter().for_each(|value| each(value));
            }
            Self::Scores(scores) => scores.order.iter().for_each(|(rank, member)| {
                each(&rank.to_le_bytes());
                each(member);
            }),
            Self::String(value) => each(value),
        }
    }

    pub fn is_empty_collection(&self) -> bool {
        match self {
            Self::Fields(fields) => fields.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Members(members) => members.list.is_empty(),
            Self::Scores(scores) => scores.scores.is_empty(),
            Self::String(_) => false,
        }
    }
}

impl Members {
    pub fn insert(&mut self, member: &[u8]) -> bool {
        if self.places.contains_key(member) {
            return false;
        }
        self.places.insert(member.to_vec(), self.list.len());
        self.list.push(member.to_vec());
        true
    }

    pub fn take(&mut self, pick: usize) -> Option<Bytes> {
        self.take_at(pick.checked_rem(self.list.len())?)
    }

    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.places.get(member).copied().is_some_and(|place| self.take_at(place).is_some())
    }

    fn take_at(&mut self, place: usize) -> Option<Bytes> {
        let member = self.list.swap_remove(place);
        self.places.remove(&member);
        if let Some(moved) = self.list.get(place) {
            self.places.insert(moved.clone(), place);
        }
        Some(member)
    }
}

impl Scores {
    pub fn insert(&mut self, member: &[u8], score: f64) -> bool {
        let before = self.scores.insert(member.to_vec(), score);
        if let Some(before) = before {
            self.order.remove(&(rank(before), member.to_vec()));
        }
        self.order.insert((rank(score), member.to_vec()));
        before.is_none()
    }

    pub fn take_least(&mut self) -> Option<(Bytes, f64)> {
        let (_, member) = self.order.pop_first()?;
        let score = self.scores.remove(&member)?;
        Some((member, score))
    }

    pub fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.scores.remove(member) else { return false };
        self.order.remove(&(rank(score), member.to_vec()))
    }
}

/// Maps a number that is not NaN to an integer of the same order; the two zeros are one.
fn rank(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}
