//! Wishes of the program to be elsewhere, by way of the node.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_host::{Mobility, Wish};
use dunlin_keep_link::{Report, Wish as WishReport, WishId};

use crate::outbox::Outbox;

/// Tells the node what the program wishes, and the program what the node says.
#[derive(Debug)]
pub(crate) struct LinkMobility {
    outbox: Outbox,
    node: String,
    open: Mutex<Open>,
}

/// A program waits for one wish at a time; what is here besides was never answered.
#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// Each with whether a new instance is to leave for it.
    wishes: BTreeMap<WishId, (Wish, bool)>,
}

/// Most wishes without an answer that are remembered.
const MOST: usize = 16;

impl LinkMobility {
    pub(crate) fn new(outbox: Outbox, node: String) -> Self {
        Self { outbox, node, open: Mutex::default() }
    }

    /// The program stays here.
    pub(crate) fn refuse(&self, id: WishId, why: &str) {
        if let Some((wish, _)) = self.open().wishes.remove(&id) {
            wish.leaves(false);
            wish.refuse(why);
        }
    }

    /// A move that fulfils the wish begins. Whether it is to be a weak one.
    pub(crate) fn leaves(&self, id: WishId) -> bool {
        let open = self.open();
        let Some((wish, weakly)) = open.wishes.get(&id) else { return false };
        wish.leaves(true);
        *weakly
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mobility for LinkMobility {
    fn here(&self) -> String {
        self.node.clone()
    }

    fn wish(&self, destination: &str, weakly: bool) -> io::Result<Wish> {
        let wish = Wish::new()?;
        let mut open = self.open();
        open.last += 1;
        let id = WishId(open.last);
        open.wishes.insert(id, (wish.clone(), weakly));
        while open.wishes.len() > MOST {
            open.wishes.pop_first();
        }
        drop(open);
        self.outbox.send(&Report::Wish(WishReport { wish: id, destination: destination.to_owned() }));
        Ok(wish)
    }
}
