//! The operator's backup: the answer is not one but goes on, so it takes a connection of its own kind.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::ra::RegistrationAuthority;
use crate::server::control::Answer;

/// How long the other side may take for some hundred entries.
const PIECE: Duration = Duration::from_secs(60);

/// Writes a backup, or in its midst why it ends.
pub(crate) async fn stream(
    ra: &RegistrationAuthority,
    out: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut backup = match ra.backup().await {
        Ok(backup) => backup,
        Err(error) => return refuse(&error, out).await,
    };
    loop {
        match backup.next().await {
            Ok(Some(lines)) => timeout(PIECE, out.write_all(&lines)).await??,
            Ok(None) => return Ok(()),
            Err(error) => return refuse(&error, out).await,
        }
    }
}

async fn refuse(error: &impl ToString, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let refused = serde_json::to_vec(&Answer::Refused(error.to_string()))?;
    timeout(PIECE, out.write_all(&refused)).await?
}
