//! The network between one replica and one server of the database: a TCP proxy that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It carries everything.
    Open,
    /// It ends all connections, and takes no new ones.
    Closed,
    /// It carries nothing, and says nothing. What was under way arrives when it is open again.
    Silent,
}

/// Where a server of the database is to be found: its Unix socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat(Arc<Mutex<PathBuf>>);

impl Seat {
    /// From now on it is here.
    pub(crate) fn is_at(&self, socket: PathBuf) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    fn socket(&self) -> PathBuf {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A link, until this is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    /// The replica's end.
    pub(crate) address: SocketAddr,
    gate: watch::Sender<Gate>,
    listener: JoinHandle<()>,
}

impl Link {
    /// A link to whatever server has the seat.
    pub(crate) async fn to(seat: Seat) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let gate = watch::Sender::new(Gate::Open);
        let seen = gate.subscribe();
        let listening = async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, seat.clone(), seen.clone()));
            }
        };
        Ok(Self {
            address,
            gate,
            listener: tokio::spawn(listening),
        })
    }

    /// From now on the network does this.
    pub(crate) fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// One connection, from its beginning to its end.
async fn carry(near: TcpStream, seat: Seat, gate: watch::Receiver<Gate>) {
    let mut closing = gate.clone();
    let carried = async {
        passes(&gate).await;
        // Without a server it ends here.
        let far = UnixStream::connect(seat.socket()).await.ok()?;
        let (mut near_out, mut near_in) = near.into_split();
        let (mut far_out, mut far_in) = far.into_split();
        tokio::select! {
            () = copy(&mut near_out, &mut far_in, &gate) => {}
            () = copy(&mut far_out, &mut near_in, &gate) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = carried => {}
        _ = closing.wait_for(|gate| *gate == Gate::Closed) => {}
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    gate: &watch::Receiver<Gate>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        // The end of a connection is not heard either while nothing passes.
        passes(gate).await;
        let Some(bytes) = read.ok().and_then(|count| buffer.get(..count)) else {
            return;
        };
        if bytes.is_empty() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Waits until something passes.
async fn passes(gate: &watch::Receiver<Gate>) {
    // Without a sender the link is gone, and this with it.
    let _ = gate.clone().wait_for(|gate| *gate == Gate::Open).await;
}
