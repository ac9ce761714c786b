//! The part of HTTP/1.1 that users, origin and API client of a run need: one request, one response, and the moment when
//! the response's header was handed over.

use std::collections::BTreeMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::net::End;

/// Largest head or body in a run.
const BYTES_MAX: usize = 1 << 20;

/// A response.
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its header fields, lower case; the last one if repeated.
    pub(crate) headers: BTreeMap<String, String>,
    /// When the sender handed the header over.
    pub(crate) written: Instant,
    /// The body; an error if it was cut off.
    pub(crate) body: io::Result<Vec<u8>>,
}

/// Status line and fields, or request line and fields.
pub(crate) type Head = (String, BTreeMap<String, String>);

/// Reads up to the end of a head; bytes after it stay in `buffer`. `None` at the end of the connection.
pub(crate) async fn read_head<R: AsyncReadExt + Unpin>(from: &mut R, buffer: &mut Vec<u8>) -> io::Result<Option<Head>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            let mut lines = text.split("\r\n");
            let first = lines.next().unwrap_or_default().to_owned();
            let fields = lines.filter_map(|line| line.split_once(':'));
            let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
            return Ok(Some((first, fields.collect())));
        }
        if from.read_buf(buffer).await? == 0 || buffer.len() > BYTES_MAX {
            return Ok(None);
        }
    }
}

/// Sends `request`, waits for `pause`, and reads the response.
pub(crate) async fn exchange(mut end: End, request: &[u8], pause: std::time::Duration) -> io::Result<Answer> {
    end.write_all(request).await?;
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let mut buffer = Vec::new();
    let (first, headers) = read_head(&mut end, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let written = end.written();
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let body = read_body(&mut end, buffer, &headers).await;
    Ok(Answer { status, headers, written, body })
}

async fn read_body(end: &mut End, mut buffer: Vec<u8>, headers: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = buffer.windows(2).position(|two| two == b"\r\n") {
                    let line = String::from_utf8_lossy(&buffer[..at]).into_owned();
                    buffer.drain(..at + 2);
                    break line;
                }
                fill(end, &mut buffer).await?;
            };
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            while buffer.len() < size + 2 {
                fill(end, &mut buffer).await?;
            }
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match headers.get("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => {
            while buffer.len() < length {
                fill(end, &mut buffer).await?;
            }
            buffer.truncate(length);
        }
        None => while end.read_buf(&mut buffer).await? > 0 {},
    }
    Ok(buffer)
}

async fn fill(end: &mut End, buffer: &mut Vec<u8>) -> io::Result<()> {
    if end.read_buf(buffer).await? == 0 || buffer.len() > BYTES_MAX {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
