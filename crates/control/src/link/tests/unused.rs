//! Connections without a session, in simulated time, and one with a session.

use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tonic::codegen::Service;

use super::*;
use crate::{Seal, Times};

/// The preface of HTTP/2 with empty SETTINGS.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The room of a connection that the test reads.
const BUFFER_BYTES: usize = 1 << 16;

/// Connects to the listeners of a control plane.
#[derive(Clone)]
struct Dial(mpsc::Sender<DuplexStream>);

impl Service<tonic::transport::Uri> for Dial {
    type Response = TokioIo<DuplexStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<DuplexStream>, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::transport::Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dial.connect(b"").await)) })
    }
}

impl Dial {
    /// A connection on which `bytes` are sent.
    async fn connect(&self, bytes: &[u8]) -> DuplexStream {
        let (mut here, there) = duplex(BUFFER_BYTES);
        self.0.send(there).await.unwrap();
        here.write_all(bytes).await.unwrap();
        here
    }

    /// How long a connection lasts on which nothing but `bytes` is sent.
    async fn lasts(&self, bytes: &[u8]) -> Duration {
        let began = tokio::time::Instant::now();
        let mut stream = self.connect(bytes).await;
        let _ = tokio::time::timeout(10 * UNUSED_MAX, stream.read_to_end(&mut Vec::new())).await;
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn connection_lasts_as_long_as_there_is_a_session_on_it() {
    let dir = TempDir::new().unwrap();
    let seal = || Seal::open_or_create(&dir.path().join("secret.key")).unwrap();
    let state = State::in_memory();
    let operator = Operator::over(state.clone(), seal(), clock()).await.unwrap();
    operator.set_pop("p", Coverage::Global, &[]).await.unwrap();
    let token = operator.create_join_token().await.unwrap();
    let json =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.strip_prefix("wfjoin1.").unwrap()).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let join_token = format!("{}:{}", token["id"].as_str().unwrap(), token["secret"].as_str().unwrap());
    let times = Times {
        lease_secs: None,
        margin: Duration::from_secs(1),
        prefetch_deadline: Duration::from_secs(60),
        rules: Default::default(),
        audit_history: Duration::from_secs(86_400),
    };
    let ((api, api_streams), (link, link_streams)) = (mpsc::channel(16), mpsc::channel(16));
    let control = Control::start_on(state, seal(), clock(), times, api_streams, link_streams).await.unwrap();
    let (api, link) = (Dial(api), Dial(link));
    let shown = async |line: &str| {
        let mut stream = api.connect(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await.unwrap();
        assert!(metrics.lines().any(|shown| shown == line), "{line} in {metrics}");
    };

    for bytes in [b"".as_slice(), HTTP2] {
        let lasted = link.lasts(bytes).await;
        assert!(lasted <= UNUSED_MAX + Duration::from_secs(1), "{bytes:?}: {lasted:?}");
    }

    let silent = link.connect(b"").await;
    let endpoint = Endpoint::from_static("http://control.test");
    let channel = endpoint.connect_with_connector(link.clone()).await.unwrap();
    shown("warmfront_link_connections_unadmitted 2").await;
    let (say, said) = mpsc::channel(16);
    say.send(FromNode { is: Some(from_node::Is::Hello(Hello { join_token, ..hello("n1") })) }).await.unwrap();
    let answers = LinkClient::new(channel).follow(ReceiverStream::new(said)).await.unwrap().into_inner();
    let mut node = Node { say, answers };
    node.welcome().await;
    shown("warmfront_link_connections_unadmitted 1").await;
    tokio::time::sleep(10 * UNUSED_MAX).await;
    shown("warmfront_link_connections_unadmitted 0").await;
    shown("warmfront_nodes_connected 1").await;
    node.say(from_node::Is::Heartbeat(Heartbeat { sequence: 7, lost: 0 })).await;
    while !matches!(node.next().await, Some(from_control::Is::Head(_))) {}
    drop(silent);
    control.stop().await;
}
