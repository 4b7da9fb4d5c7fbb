//! A host that keeps each chunk and each pointer in a file of its own, so that an adversary can swap them one by one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dunlin_base::Digest;
use dunlin_store::{ChunkStore, Roots, StoreError};

#[derive(Debug)]
pub struct Files(PathBuf);

impl Files {
    pub fn open(path: PathBuf) -> Self {
        for folder in ["chunks", "roots"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        Self(path)
    }

    fn chunk(&self, digest: &Digest) -> PathBuf {
        self.0.join("chunks").join(hexadecimal(digest))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn hexadecimal(digest: &Digest) -> String {
    digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(name: &str) -> Digest {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * at..2 * at + 2], 16).unwrap();
    }
    Digest(bytes)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { action: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    fs::write(path, bytes).map_err(|source| StoreError::Io { action: "write", path: path.to_owned(), source })
}

impl ChunkStore for Files {
    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.chunk(digest))
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        write(&self.chunk(digest), bytes)
    }

    fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.chunk(digest).is_file())
    }

    fn list(&self) -> Result<Vec<Digest>, StoreError> {
        Ok(self.names("chunks").iter().map(|name| digest(name)).collect())
    }

    fn retain(&self, needed: &BTreeSet<Digest>) -> Result<u64, StoreError> {
        let gone: Vec<Digest> = self.list()?.into_iter().filter(|digest| !needed.contains(digest)).collect();
        gone.iter().for_each(|digest| fs::remove_file(self.chunk(digest)).unwrap());
        Ok(gone.len() as u64)
    }

    fn stored_bytes(&self) -> u64 {
        self.names("chunks").iter().map(|name| self.0.join("chunks").join(name).metadata().unwrap().len()).sum()
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Roots for Files {
    fn root(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        let text = read(&self.0.join("roots").join(name))?;
        Ok(text.map(|text| digest(&String::from_utf8(text).unwrap())))
    }

    fn set_root(&self, name: &str, root: Option<Digest>) -> Result<(), StoreError> {
        let path = self.0.join("roots").join(name);
        match root {
            Some(root) => write(&path, hexadecimal(&root).as_bytes()),
            None => fs::remove_file(&path).map_err(|source| StoreError::Io { action: "remove", path, source }),
        }
    }

    fn roots(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let names = self.names("roots").into_iter();
        names.map(|name| Ok((name.clone(), self.root(&name)?.unwrap()))).collect()
    }
}
