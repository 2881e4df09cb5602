"""An Ansible connection into a directory that has a whole Linux, by chroot: ansible_host is the directory."""

import shutil
import subprocess

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: in_root
short_description: By chroot into a directory
description: For tests. As root.
options:
  remote_addr:
    description: The directory
    vars: [{name: ansible_host}]
"""


class Connection(ConnectionBase):
    """Runs commands below the directory, and copies files into it and out of it."""

    transport = "in_root"
    has_pipelining = False

    def _connect(self):
        return self

    def _root(self):
        return self._play_context.remote_addr

    def exec_command(self, cmd, in_data=None, sudoable=True):
        """Runs a command by the shell in the directory."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["chroot", self._root(), "/bin/sh", "-c", cmd], input=in_data, capture_output=True, env=environment, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        """Copies a file into the directory."""
        shutil.copyfile(in_path, self._root() + out_path)

    def fetch_file(self, in_path, out_path):
        """Copies a file out of the directory."""
        shutil.copyfile(self._root() + in_path, out_path)

    def close(self):
        """There is nothing to close."""
