//! The world around a program: WASI preview 1, implemented so that everything a program can observe of it is plain
//! data, is frozen into sections of a snapshot and continues elsewhere. This crate must never keep state that a
//! section does not carry, never let a length or path from a program decide an allocation or leave a mounted
//! directory, and never panic on what a program or a section says.
//!
//! A [`World`] is made by [`World::new`] from a [`Config`] and serves one program as its [`dunlin_engine::Host`].
//! [`World::freeze`] turns its state into sections; [`World::thaw`] makes a world from them that continues where the
//! frozen one stopped, on whatever the new host offers (its directories, listeners and standard streams).
//!
//! What continues, and how:
//!
//! | state | after a move |
//! |---|---|
//! | arguments, environment | the same |
//! | monotonic clock | continues from the frozen value: the time in transit does not pass |
//! | real-time clock | the new host's |
//! | random stream | seeded anew by the new host's system and a hash of the old stream: never repeated |
//! | files and directories | opened again under the mount of the same guest path, at the same offset |
//! | deleted files that are still open | their contents travel |
//! | the private volume | its root, what is open in it, deleted files included, and the chunks that the new host lacks travel |
//! | standard streams | unread input travels; output already written is not repeated |
//! | a sleep or timeout in progress | sleeps the rest |
//! | listeners | those of the new host's configuration, in the same order |
//! | connections | refused, or closed with their unread bytes kept, or carried on: [`Connections`], [`Carrier`] |
//! | processor time used | counted on, where it is counted: [`World::add_cpu`] |
//! | trusted surroundings | results and the sealed store travel, and are sealed anew: [`trust::Trust`] |
//!
//! Where a call is described loosely, its results and error numbers follow Wasmtime's implementation of preview 1; a test
//! beside this crate compares the two by generated calls. They differ in this:
//!
//! * a pointer outside of memory is `EFAULT` and an unknown flag or number `EINVAL`, not a trap, and such a call has no effect;
//! * a read or write uses all its buffers, not only the first;
//! * `fd_allocate`, `fd_fdstat_set_rights`, synchronous writes, the socket functions, the flags of standard streams and the
//!   times of an opened directory, which Wasmtime refuses, work;
//! * a descriptor gets the lowest free number;
//! * a directory can be synchronised, and removed by a path that ends with a slash;
//! * a directory is listed in the order of names, and a listing that has begun does not change;
//! * reading no bytes of a stream is no error, and a poll tells how many bytes there are, none at the end;
//! * from an opened directory, files can be opened for writing;
//! * unused bytes of structures are zero.

mod carrier;
mod codec;
mod config;
mod errno;
mod error;
mod interface;
mod memory;
mod mobility;
mod needs;
mod preview1;
mod sections;
pub mod trust;
mod usage;
mod wait;
mod world;

pub use carrier::{CarriedConnection, Carrier, ConnectionId};
pub use codec::CodecError;
pub use config::{Capture, Carry, Config, Connections, Input, Limits, Mount, Output, PrivateVolume, Source};
pub use error::Error;
pub use mobility::{MODULE as MOBILITY_MODULE, Mobility, Wish};
pub use needs::{MountNeed, Needs, OpenNeed, VolumeContents, VolumeNeed};
pub use preview1::files::volume_ahead::{VolumeAhead, VolumeHandle};
pub use preview1::{MODULE, MatrixEntry, matrix};
pub use sections::kind;
pub use world::World;
