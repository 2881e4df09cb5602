//! Small file systems in memory, which can be full.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system, until this is dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// One of this size, mounted on a directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// What mount says: only root may.
    pub(crate) fn mount(directory: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(directory).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory)
            .output()
            .unwrap();
        match mount.status.success() {
            true => Ok(Self(directory.to_owned())),
            false => Err(format!("run as root: {}", String::from_utf8_lossy(&mount.stderr))),
        }
    }

    /// Leaves no room for anything else, until what this gives is removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut ballast = File::create(&path).unwrap();
        for size in [1 << 16, 1] {
            let block = vec![1; size];
            let full = loop {
                if let Err(full) = ballast.write_all(&block) {
                    break full;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        drop(unmounted);
        drop(std::fs::remove_dir(&self.0));
    }
}
