//! What is in a private volume, as text that two runs can be compared by.

use std::fmt::Write as _;
use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_store::{Error, FileKind, Ino, OpenFile, OpenFlags, Options, Store, Volume};

/// Every name with kind, inode, links, size, times and a digest of the contents; then what is open without a name.
///
/// # Panics
/// If the volume cannot be read.
pub(crate) fn dump(store: &Arc<dyn Store>, root: Digest) -> String {
    let mut text = String::new();
    let mut volume = Volume::open_at(store.clone(), root, Options::default()).expect("its root was just committed");
    directory(&mut volume, ".", &mut text).expect("all of it is in the store");
    for ino in volume.orphans() {
        let open = OpenFile { ino, read: true, write: false, append: false, offset: 0 };
        let handle = volume.reopen(open).expect("it is there");
        let size = volume.stat(handle).expect("it is there").size;
        let mut bytes = vec![0; size as usize];
        let read = volume.read_at(handle, &mut bytes, 0).expect("it can be read");
        writeln!(text, "deleted {} {read} {}", ino.0, Digest::of(&bytes)).expect("memory takes all");
    }
    text
}

fn directory(volume: &mut Volume, path: &str, text: &mut String) -> Result<(), Error> {
    let reading = OpenFlags { read: true, ..OpenFlags::default() };
    let handle = volume.open_file(Ino::ROOT, path, reading)?;
    for entry in volume.read_directory(handle, 0, usize::MAX)? {
        let path = format!("{path}/{}", entry.name);
        let stat = volume.stat_path(Ino::ROOT, &path, false)?;
        writeln!(text, "{path} {stat:?} cookie {}", entry.cookie).expect("memory takes all");
        match stat.kind {
            FileKind::Directory => directory(volume, &path, text)?,
            FileKind::Symlink => text.push_str(&volume.read_link(Ino::ROOT, &path)?),
            FileKind::File => {
                let file = volume.open_file(Ino::ROOT, &path, reading)?;
                let mut bytes = vec![0; stat.size as usize];
                let read = volume.read_at(file, &mut bytes, 0)?;
                writeln!(text, "{read} {}", Digest::of(&bytes)).expect("memory takes all");
                volume.close(file)?;
            }
        }
    }
    volume.close(handle)
}
