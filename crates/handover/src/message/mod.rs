//! What source and destination say to each other. The bytes are drawn in `docs/formats/migration.md` of the
//! repository and pinned by golden files.

mod body;
mod frame;
mod pages;
mod volume;

pub(crate) use body::MAX_MEMORIES;
pub use body::{
    Abort, AbortCode, Blocked, BlockedCode, Chunk, Complete, Evidence, Features, Final, Hello, MemoryShape, Message,
    Offer, PageRequest, Reattach, Round, Text, Welcome,
};
pub use frame::{ChannelGuard, FrameError, Guard, HashChain, Link, MAX_FRAME, Role, Versions};
pub(crate) use pages::PLACED_EVERY;
pub use pages::{Content, LeftBehind, MAX_PAGES, Pages, Run};
pub use volume::{MAX_HELD, MAX_HELD_CHUNKS, MAX_VOLUME_BYTES, VolumeChunks, VolumeHeld};
