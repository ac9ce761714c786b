//! Requests that no SDK would send: they get a clear error in the vendor's form, have no partial effect, and reveal no
//! secret.

use std::time::Duration;

use aliyun::{AccessKey, Ask, encode_pairs, sign_v1, sign_v3};
use anyhow::{Context, ensure};
use bytes::Bytes;
use e2e::http::{Answer, send};
use e2e::sdk;
use e2e::stage::{DOMAIN, Stage};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn now() -> std::time::SystemTime {
    #[allow(clippy::disallowed_methods, reason = "a client of the real program lives in real time")]
    std::time::SystemTime::now()
}

/// Signs and sends a POST with V3; the signature covers the body, whatever it is.
async fn post(stage: &Stage, nonce: &str, body: &[u8], content_type: Option<&str>) -> anyhow::Result<Answer> {
    let key = AccessKey { id: &stage.key.id, secret: &stage.key.secret };
    let ask = Ask { method: &Method::POST, action: "PushObjectCache", version: "2018-05-10", now: now(), nonce };
    let host = format!("127.0.0.1:{}", stage.api_port);
    let extra: Vec<(&str, &str)> = content_type.map(|value| ("content-type", value)).into_iter().collect();
    let mut request = Request::builder().method(Method::POST).uri("/");
    let signed = sign_v3(key, ask, &host, &[], if content_type.is_some() { &[] } else { body }, &extra);
    for (name, value) in signed {
        // With a content type of our own the hash was of an empty body; the server must refuse either way.
        request = request.header(name, value);
    }
    send(stage.api_port, request.body(Full::new(Bytes::copy_from_slice(body)))?).await
}

/// The reply must be an error in the vendor's form: five strings, a request id, the exact content type.
fn vendor_error(answer: &Answer) -> anyhow::Result<(u16, String, String)> {
    let body = answer.json();
    for field in ["RequestId", "HostId", "Code", "Message", "Recommend"] {
        ensure!(
            body[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field} in {} {}",
            answer.status,
            answer.text()
        );
    }
    ensure!(answer.header("content-type") == "application/json;charset=utf-8", "{}", answer.header("content-type"));
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    Ok((answer.status.as_u16(), text("Code"), text("Message")))
}

async fn tasks(stage: &Stage) -> anyhow::Result<u64> {
    let answers = sdk::calls(stage, &[("cdn", "DescribeRefreshTasks", json!({}))]).await?;
    answers[0]["ok"]["TotalCount"].as_u64().with_context(|| format!("TotalCount in {}", answers[0]))
}

#[tokio::test]
async fn what_no_client_sends_is_refused_by_name_and_leaves_nothing() -> anyhow::Result<()> {
    let mut stage = Stage::without_nodes("open", &[]).await?;
    stage.add_domain("127.0.0.1:9").await?;
    let url = format!("http://{DOMAIN}/a");
    let ten_thousand = (0..10_000).map(|n| format!("{url}/{n}")).collect::<Vec<_>>().join("\n");
    let form = |pairs: &[(&str, &str)]| encode_pairs(pairs).into_bytes();
    let huge = "x".repeat(6 << 20);
    // Reason, body, code, and what the message must name.
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("a broken escape", b"ObjectPath=%zz".to_vec(), "InvalidParameter", "ObjectPath"),
        ("invalid UTF-8", b"ObjectPath=http%3A%2F%2Fa%2F%ff".to_vec(), "InvalidParameter", "ObjectPath"),
        ("raw bytes", b"ObjectPath=\xff\xfe".to_vec(), "InvalidParameter", "ObjectPath"),
        ("a control character in a name", b"Object%00Path=x".to_vec(), "InvalidParameter", "form"),
        (
            "control characters in a line",
            form(&[("ObjectPath", &format!("{url}\u{0}b"))]),
            "InvalidObjectPath.Malformed",
            "ObjectPath",
        ),
        ("10,000 lines", form(&[("ObjectPath", &ten_thousand)]), "SingleRequest.OverLimit", "1000"),
        (
            "one good line and one bad",
            form(&[("ObjectPath", &format!("{url}\nhttp:///"))]),
            "InvalidObjectPath.Malformed",
            "ObjectPath",
        ),
        ("a parameter twice", form(&[("ObjectPath", &url), ("ObjectPath", &url)]), "InvalidParameter", "ObjectPath"),
        ("an area that is none", form(&[("ObjectPath", &url), ("Area", "moon")]), "InvalidParameter", "Area"),
        (
            "a switch that is none",
            form(&[("ObjectPath", &url), ("L2Preload", "perhaps")]),
            "InvalidParameter",
            "L2Preload",
        ),
        ("a huge parameter", form(&[("ObjectPath", &url), ("Note", &huge)]), "RequestEntityTooLarge", "bytes"),
    ];
    for (number, (why, body, code, names)) in cases.into_iter().enumerate() {
        let answer = post(&stage, &format!("bad-{number}"), &body, None).await.context(why)?;
        let (status, got, message) = vendor_error(&answer).context(why)?;
        ensure!(
            (400..500).contains(&status) && got == code && message.contains(names),
            "{why}: {status} {got} {message}"
        );
    }
    let answer = post(&stage, "bad-type", b"{}", Some("application/json")).await?;
    let (status, code, message) = vendor_error(&answer)?;
    ensure!(status == 400 && message.contains("Content-Type"), "a wrong content type: {status} {code} {message}");

    half_a_body(&stage).await?;
    chunked_form_is_read_like_any_other(&stage).await?;
    xml_is_answered_in_xml(&stage).await?;

    ensure!(tasks(&stage).await? == 0, "nothing was half done");
    let answer = post(&stage, "good", &form(&[("ObjectPath", &url)]), None).await?;
    ensure!(answer.status.is_success(), "after all that, a good one: {}", answer.text());
    let again = post(&stage, "good", &form(&[("ObjectPath", &url)]), None).await?;
    ensure!(vendor_error(&again)?.1 == "SignatureNonceUsed", "{}", again.text());
    ensure!(tasks(&stage).await? == 1, "the replay did nothing");

    let control = stage.control().context("it runs")?;
    ensure!(control.runs(), "{}", control.tail());
    let log = std::fs::read_to_string(&control.log)?;
    ensure!(!log.contains(&stage.key.secret), "the secret is in the log");
    Ok(())
}

/// A body that ends before its length: the connection closes, or an error is returned; the server continues.
async fn half_a_body(stage: &Stage) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", stage.api_port)).await?;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nObjectPath=http";
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .context("half a body holds a connection")??;
    let text = String::from_utf8_lossy(&answer);
    ensure!(!text.starts_with("HTTP/1.1 2"), "half a body was taken for a whole one: {text}");
    Ok(())
}

/// Node's SDK streams its forms: the same request with `Transfer-Encoding: chunked`.
async fn chunked_form_is_read_like_any_other(stage: &Stage) -> anyhow::Result<()> {
    let key = AccessKey { id: &stage.key.id, secret: &stage.key.secret };
    let ask = Ask {
        method: &Method::POST,
        action: "DescribeRefreshTasks",
        version: "2018-05-10",
        now: now(),
        nonce: "chunked",
    };
    let body = b"PageSize=7";
    let host = format!("127.0.0.1:{}", stage.api_port);
    let mut head = String::from("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n");
    for (name, value) in sign_v3(key, ask, &host, &[], body, &[]) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = TcpStream::connect(("127.0.0.1", stage.api_port)).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(b"\r\n4\r\nPage\r\n6\r\nSize=7\r\n0\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await??;
    let text = String::from_utf8_lossy(&answer);
    ensure!(text.starts_with("HTTP/1.1 200") && text.contains("\"PageSize\":7"), "{text}");
    Ok(())
}

/// V1 without a format is answered in XML, including errors.
async fn xml_is_answered_in_xml(stage: &Stage) -> anyhow::Result<()> {
    let key = AccessKey { id: &stage.key.id, secret: "not-the-secret" };
    let ask =
        Ask { method: &Method::GET, action: "DescribeRefreshQuota", version: "2018-05-10", now: now(), nonce: "xml" };
    let query = encode_pairs(&sign_v1(key, ask, &[]));
    let request = Request::get(format!("/?{query}")).header("host", "127.0.0.1").body(Full::new(Bytes::new()))?;
    let answer = send(stage.api_port, request).await?;
    ensure!(
        answer.status == 400 && answer.header("content-type") == "text/xml;charset=utf-8",
        "{} {}",
        answer.status,
        answer.text()
    );
    let text = answer.text();
    let parts =
        ["<Error>", "<Code>SignatureDoesNotMatch</Code>", "server string to sign is:GET&amp;%2F&amp;AccessKeyId%3D"];
    for part in parts {
        ensure!(text.contains(part), "{part} in {text}");
    }
    ensure!(!text.contains("not-the-secret"), "{text}");
    Ok(())
}
