//! What the program says of itself: its version, shell completions and manual pages.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use crate::cli::{Cli, print};

const NAME: &str = "acme-proxy";

const VERSION_EXAMPLES: &str = "\
Examples:
  acme-proxy version
  acme-proxy version --json";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  acme-proxy completions bash > /etc/bash_completion.d/acme-proxy
  acme-proxy completions zsh > /usr/local/share/zsh/site-functions/_acme-proxy
  acme-proxy completions fish > /etc/fish/completions/acme-proxy.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  acme-proxy man | man -l -
  acme-proxy man --out /usr/local/share/man/man1";

#[derive(Args)]
#[command(after_help = VERSION_EXAMPLES)]
pub(crate) struct Version {
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    shell: KnownShell,
}

/// The shells that are looked after here.
#[derive(Clone, Copy, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(crate) struct Man {
    /// Writes one page for each command into this directory [default: the program's page to the standard output]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

impl Version {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        match self.json {
            true => print(&format!("{{\"name\":\"{NAME}\",\"version\":\"{version}\"}}\n")),
            false => print(&format!("{NAME} {version}\n")),
        }
    }
}

impl Completions {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let shell = match self.shell {
            KnownShell::Bash => Shell::Bash,
            KnownShell::Zsh => Shell::Zsh,
            KnownShell::Fish => Shell::Fish,
        };
        // Not at once to the standard output, which may be closed.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
        print(&String::from_utf8(script)?)
    }
}

impl Man {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match &self.out {
            Some(directory) => write_pages(directory)
                .with_context(|| format!("the manual pages can not be written into {}", directory.display())),
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(Cli::command()).render(&mut page)?;
                print(&String::from_utf8(page)?)
            }
        }
    }
}

fn write_pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)
}
