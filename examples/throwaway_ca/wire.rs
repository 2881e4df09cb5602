//! Below HTTP: a connection on which a test's bytes can leave in place of an answer, which no HTTP library would write.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::state::lock;

/// How long [`Then::Trickle`] waits before each piece.
const DRIP: Duration = Duration::from_millis(100);

/// Bytes in place of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) bytes: Bytes,
    pub(crate) then: Then,
}

/// What follows the bytes.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    /// The connection breaks.
    Break,
    /// Nothing, and the connection stays.
    Hang,
    /// These bytes for ever, as fast as they are read.
    Flood(Bytes),
    /// These bytes for ever, ten times a second.
    Trickle(Bytes),
}

impl Raw {
    /// These bytes, and then.
    pub(crate) fn new(bytes: impl Into<Bytes>, then: Then) -> Self {
        Self {
            bytes: bytes.into(),
            then,
        }
    }

    /// Nothing at all: the connection breaks.
    pub(crate) fn broken() -> Self {
        Self::new("", Then::Break)
    }

    /// A body of this type without an end.
    pub(crate) fn endless(content_type: &str) -> Self {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
        Self::new(head, Then::Flood(chunk.into()))
    }

    /// A body of this type that is said to be so long, of which this much comes.
    pub(crate) fn partial(content_type: &str, length: usize, body: &str, then: Then) -> Self {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n");
        Self::new(head + body, then)
    }
}

/// Where one connection is told to play a [`Raw`].
pub(crate) type Hijack = Arc<Mutex<Option<Raw>>>;

/// The connection.
pub(crate) struct Wire<S> {
    inner: S,
    hijack: Hijack,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    /// Plays what the hijack says from the next write on.
    pub(crate) fn new(inner: S, hijack: Hijack) -> Self {
        Self {
            inner,
            hijack,
            pause: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    fn play(&mut self, raw: &mut Raw, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if raw.bytes.is_empty() {
                ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
                match &raw.then {
                    Then::Break => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    Then::Hang => return Poll::Pending,
                    Then::Flood(bytes) => raw.bytes = bytes.clone(),
                    Then::Trickle(bytes) => {
                        raw.bytes = bytes.clone();
                        self.pause = Some(Box::pin(sleep(DRIP)));
                        continue;
                    }
                }
            }
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &raw.bytes))?;
            raw.bytes.advance(written);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let hijack = this.hijack.clone();
        let mut raw = lock(&hijack);
        match raw.as_mut() {
            Some(raw) => this.play(raw, cx),
            None => Pin::new(&mut this.inner).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
