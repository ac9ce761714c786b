//! Connections of API clients: HTTP/1.1 and HTTP/2, within bounds of time, number and size.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::READ_MAX;
use crate::connection::{self, Bounds};
use crate::strangers::Strangers;

/// Connections at a time; one address may have three times what it leaves to others, so alone three quarters. Further
/// ones are closed at once.
const CONNECTIONS_MAX: usize = 4096;

/// How long a connection may last after its last request, beyond the time that the answer takes.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Most bytes that hyper buffers of a request's head over HTTP/1.1. A URL alone may have 64 KiB, since clients may send
/// all parameters in it. Over HTTP/2 hyper's own bound is lower.
const HEAD_BYTES_MAX: usize = 128 << 10;

/// How long connections may take to end when the process stops.
const STOPPING_MAX: Duration = Duration::from_secs(4);

/// The room for connections.
pub(super) fn room() -> Arc<Strangers> {
    Strangers::shared(CONNECTIONS_MAX)
}

/// Serves connections, which come with the client's address, until `stopping` is cancelled.
pub(super) async fn serve<S: crate::Stream, A, F>(
    incoming: impl tokio_stream::Stream<Item = io::Result<(S, Option<IpAddr>)>>,
    room: Arc<Strangers>,
    answer: A,
    stopping: CancellationToken,
) where
    A: Fn(Request<Incoming>, Option<IpAddr>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut server = auto::Builder::new(TokioExecutor::new());
    let http1 = &mut server.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(READ_MAX).max_buf_size(HEAD_BYTES_MAX);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(READ_MAX);
    let graceful = GracefulShutdown::new();
    let mut incoming = Box::pin(connection::within(incoming, Bounds { room, first: READ_MAX, idle: IDLE_MAX }));
    loop {
        let connection = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            next = incoming.next() => next,
        };
        let Some(connection) = connection else { break };
        let (peer, answer) = (connection.peer(), answer.clone());
        let service = service_fn(move |request| {
            let under_way = peer.begin();
            let answered = answer(request, peer.from());
            async move {
                let response = answered.await;
                under_way.answered(response.body().size_hint().lower());
                Ok::<_, Infallible>(response)
            }
        });
        let connection = server.serve_connection(TokioIo::new(connection), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "connection ended");
            }
        });
    }
    drop(incoming);
    let _ = tokio::time::timeout(STOPPING_MAX, graceful.shutdown()).await;
}

#[cfg(test)]
mod tests;
