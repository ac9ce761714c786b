//! One call of the API: signed, bounded in time and size, and retried where that is safe.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aliyun::{AccessKey, Ask, encode_pairs, sign_v3};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use model::Clock;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ApiArgs, Stop};

/// The API version used.
const VERSION: &str = "2018-05-10";
/// How long one answer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer accepted, in bytes: a page of tasks is far smaller.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// How often a call is sent before a refusal is final.
const ATTEMPTS_MAX: u32 = 6;
/// The first pause before a retry if the service names none; it doubles each time.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, even if the service asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The API, as one access key sees it.
pub(crate) struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Scheme, host and port, path `/`.
    endpoint: Uri,
    key_id: String,
    secret: Secret,
    /// The token of a session.
    token: Option<Secret>,
    clock: Arc<dyn Clock>,
}

/// The secret of an access key; never shown.
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The service refused.
    #[error("{code}: {message} (status {status}, request {request_id})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The API's error code.
        code: String,
        /// The API's message.
        message: String,
        /// Identifies the request in the service's log.
        request_id: String,
    },
    /// No connection could be made: nothing was sent.
    #[error("cannot reach {endpoint}: {problem}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// The network error.
        problem: String,
    },
    /// The request was sent and no usable answer arrived: whether it was accepted is unknown.
    #[error("no usable answer from {endpoint}: {problem}")]
    Unclear {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl ApiError {
    /// Whether the same call may succeed later: the service is busy or unavailable.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            ApiError::Refused { status, .. } => self.is_busy() || matches!(status, 500 | 502 | 504),
            ApiError::Unreachable { .. } | ApiError::Unclear { .. } => true,
        }
    }

    /// Whether the service states that it did nothing because it is busy, or because a domain is being configured, so
    /// that even a submission may be retried.
    fn is_busy(&self) -> bool {
        match self {
            ApiError::Refused { status, code, .. } => {
                matches!(status, 429 | 503) || code.starts_with("Throttling") || code == "ServiceBusy"
            }
            ApiError::Unreachable { .. } | ApiError::Unclear { .. } => false,
        }
    }
}

impl Api {
    /// Checks endpoint and credentials. Nothing is sent.
    pub(super) fn new(args: &ApiArgs, clock: Arc<dyn Clock>) -> Result<Api, Stop> {
        let endpoint = endpoint(&args.endpoint).map_err(Stop::Usage)?;
        let key_id = args
            .access_key_id
            .clone()
            .filter(|id| !id.is_empty())
            .ok_or_else(|| Stop::usage("no access key: set ALIBABA_CLOUD_ACCESS_KEY_ID or give --access-key-id"))?;
        let secret = secret(args.access_key_secret_file.as_deref())?;
        let client = Client::builder(TokioExecutor::new()).build(connector()?);
        Ok(Api { client, endpoint, key_id, secret, token: token(), clock })
    }

    /// The API of this process at `address`, for a key that is not secret.
    pub(crate) fn at(address: SocketAddr, key_id: &str, secret: &str, clock: Arc<dyn Clock>) -> anyhow::Result<Api> {
        let endpoint = format!("http://{address}/").parse()?;
        let connector = connector().map_err(|_| anyhow::anyhow!("set up TLS"))?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Api { client, endpoint, key_id: key_id.to_owned(), secret: Secret(secret.to_owned()), token: None, clock })
    }

    /// Makes one call. It is retried only while the service states that it is too busy and did nothing, so that a
    /// submission never happens twice.
    pub(crate) async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Value, ApiError> {
        self.read(action, parameters).await.map(Value::Object)
    }

    /// As [`Api::call`], but deserialises the reply directly.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, ApiError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            let (error, asked) = match self.once(action, parameters).await {
                Ok(reply) => return Ok(reply),
                Err((error, asked)) => (error, asked),
            };
            if !error.is_busy() {
                return Err(error);
            }
            let wait = asked.unwrap_or(pause).min(PAUSE_MAX);
            super::note(format_args!("{action}: {error}; trying again in {:.1} s", wait.as_secs_f32()));
            tokio::time::sleep(wait).await;
            pause = pause.saturating_mul(2);
        }
        self.once(action, parameters).await.map_err(|(error, _)| error)
    }

    /// Sends the call once. An error comes with the pause that the service asked for, if any.
    async fn once<T: DeserializeOwned>(
        &self,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, (ApiError, Option<Duration>)> {
        let endpoint = || self.endpoint.to_string();
        let unclear = |problem: String| (ApiError::Unclear { endpoint: endpoint(), problem }, None);
        let request = self.request(action, parameters).map_err(unclear)?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                let problem = chain(&error);
                if error.is_connect() {
                    (ApiError::Unreachable { endpoint: endpoint(), problem }, None)
                } else {
                    unclear(problem)
                }
            })?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(|error| unclear(error.to_string()))?;
            Ok((head.status, head.headers, body.to_bytes()))
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, exchange).await;
        let (status, headers, body) =
            answer.unwrap_or_else(|_| Err(unclear(format!("nothing for {} s", CALL_TIMEOUT.as_secs()))))?;
        if status.is_success() {
            let reply = serde_json::from_slice(&body);
            return reply.map_err(|problem| unclear(format!("status {status} and no reply to {action}: {problem}")));
        }
        match refusal(status, &body) {
            Some(refused) => Err((refused, asked_pause(&headers))),
            None => Err(unclear(format!("status {status} and no JSON object"))),
        }
    }

    /// Parameters go into the form: a query string would be too long for a hundred URLs.
    fn request(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Request<Full<Bytes>>, String> {
        let form = encode_pairs(parameters);
        let host = self.endpoint.authority().map_or("", |authority| authority.as_str());
        let key = AccessKey { id: &self.key_id, secret: &self.secret.0 };
        let (method, now, nonce) = (Method::POST, self.clock.now(), nonce()?);
        let ask = Ask { method: &method, action, version: VERSION, now, nonce: &nonce };
        let token = self.token.as_ref().map(|token| ("x-acs-security-token", token.0.as_str()));
        let extra: Vec<(&str, &str)> = std::iter::once(("accept", "application/json")).chain(token).collect();
        let headers = sign_v3(key, ask, host, &[], form.as_bytes(), &extra);
        let mut request = Request::builder().method(&method).uri(&self.endpoint);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(form))).map_err(|error| error.to_string())
    }
}

/// 128 random bits, unique to each request.
fn nonce() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Parses a refusal; `None` if it is not in the API's form.
fn refusal(status: StatusCode, body: &[u8]) -> Option<ApiError> {
    let reply = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
    let busy = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    let text = |name: &str| reply.as_ref().and_then(|reply| reply[name].as_str()).map(str::to_owned);
    // The service's own text quotes the whole request, for people who implement signing.
    let message = match text("Code").as_deref() {
        Some("SignatureDoesNotMatch") => {
            Some("most likely the secret of the access key is wrong, or a proxy changes the request".to_owned())
        }
        _ => text("Message"),
    };
    match text("Code") {
        None if !busy => None, // not the service; but a proxy's 503 is a refusal in any form
        code => Some(ApiError::Refused {
            status: status.as_u16(),
            code: code.unwrap_or_else(|| status.to_string()),
            message: message.unwrap_or_else(|| "no message".to_owned()),
            request_id: text("RequestId").unwrap_or_else(|| "unknown".to_owned()),
        }),
    }
}

/// The pause that a refusal asks for: `x-acs-retry-after` in milliseconds, else `Retry-After` in seconds.
fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("x-acs-retry-after").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}

/// Parses `--endpoint`: a scheme, a host and optionally a port.
fn endpoint(text: &str) -> Result<Uri, String> {
    let wrong =
        |problem: &str| format!("--endpoint `{text}`: {problem}; expected something like http://127.0.0.1:9680");
    let uri = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: Uri = uri.parse().map_err(|_| wrong("not a URL"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("no host"))?;
    let this_machine = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    let scheme = match uri.scheme_str() {
        Some("http" | "https") if text.contains("://") => uri.scheme_str().unwrap_or_default(),
        Some("https") if this_machine => "http",
        Some("https") => "https",
        _ => return Err(wrong("only http and https are spoken")),
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(wrong("a user name has no place in it"));
    }
    if uri.path() != "/" && !uri.path().is_empty() || uri.query().is_some() {
        return Err(wrong("the API is at the root of the host"));
    }
    format!("{scheme}://{authority}/").parse().map_err(|_| wrong("not a URL"))
}

/// The secret from the file, otherwise from the environment.
fn secret(file: Option<&Path>) -> Result<Secret, Stop> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Stop::usage(format_args!("--access-key-secret-file {}: {error}", path.display())))?,
        #[allow(clippy::disallowed_methods, reason = "as an argument a secret would be in the process list")]
        None => std::env::var("ALIBABA_CLOUD_ACCESS_KEY_SECRET").map_err(|_| {
            Stop::usage("no secret: set ALIBABA_CLOUD_ACCESS_KEY_SECRET or give --access-key-secret-file")
        })?,
    };
    match text.trim() {
        "" => Err(Stop::usage("the access key's secret is empty")),
        secret => Ok(Secret(secret.to_owned())),
    }
}

/// The token of a session, from the environment.
fn token() -> Option<Secret> {
    #[allow(clippy::disallowed_methods, reason = "as an argument a secret would be in the process list")]
    let token = std::env::var("ALIBABA_CLOUD_SECURITY_TOKEN").ok()?;
    Some(token.trim()).filter(|token| !token.is_empty()).map(|token| Secret(token.to_owned()))
}

/// Plain and TLS connections; root certificates are the machine's, or Mozilla's if the machine has none.
fn connector() -> Result<HttpsConnector<HttpConnector>, Stop> {
    let provider = || rustls::crypto::aws_lc_rs::default_provider();
    let no_tls = |error: rustls::Error| Stop::Failed(format!("set up TLS: {error}"));
    let builder = match HttpsConnectorBuilder::new().with_provider_and_native_roots(provider()) {
        Ok(builder) => builder,
        Err(_) => HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider()).map_err(no_tls)?,
    };
    Ok(builder.https_or_http().enable_http1().build())
}

/// An error with its causes, as hyper's own text only says where it happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        let cases = [
            ("http://127.0.0.1:9680", Ok("http://127.0.0.1:9680/")),
            ("https://cdn.test/", Ok("https://cdn.test/")),
            ("cdn.aliyuncs.com", Ok("https://cdn.aliyuncs.com/")),
            ("warmfront.test:9680", Ok("https://warmfront.test:9680/")),
            ("localhost:9680", Ok("http://localhost:9680/")), // this machine
            ("127.0.0.1:9680", Ok("http://127.0.0.1:9680/")),
            ("[::1]:9680", Ok("http://[::1]:9680/")),
            ("https://127.0.0.1", Ok("https://127.0.0.1/")), // the explicit scheme counts
            ("ftp://cdn.test", Err("only http and https")),
            ("http://cdn.test/api", Err("root of the host")),
            ("http://cdn.test/?a", Err("root of the host")),
            ("http://a:b@cdn.test", Err("user name")),
            ("", Err("not a URL")),
            ("http://", Err("not a URL")),
        ];
        for (text, expected) in cases {
            match (endpoint(text), expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{text}"),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{text}: {problem}"),
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
    }

    #[test]
    fn the_service_says_how_long_to_wait() {
        let cases = [
            (vec![("x-acs-retry-after", "1500"), ("retry-after", "9")], Some(Duration::from_millis(1500))),
            (vec![("retry-after", "2")], Some(Duration::from_secs(2))),
            (vec![("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], None), // left to us
            (vec![], None),
        ];
        for (lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for &(name, value) in &lines {
                headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
            assert_eq!(asked_pause(&headers), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret("demo-key-secret".to_owned())), "Secret(..)");
    }
}
