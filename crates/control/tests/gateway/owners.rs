//! Proofs that a name is an account's, by a name server and a host of the test's own.

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use super::*;

/// A name server that knows TXT records, and that every host is on the loopback.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    texts: Arc<Mutex<BTreeMap<String, String>>>,
    serving: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl NameServer {
    pub(crate) async fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let texts: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let known = texts.clone();
        let serving = tokio::spawn(async move {
            let mut query = [0_u8; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let answer = answer(&query[..length], &known.lock().unwrap());
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        NameServer { address, texts, serving }
    }

    pub(crate) fn shows(&self, name: &str, text: &str) {
        self.texts.lock().unwrap().insert(name.to_owned(), text.to_owned());
    }
}

/// An answer of RFC 1035 §4.1.
fn answer(query: &[u8], texts: &BTreeMap<String, String>) -> Vec<u8> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap().to_ascii_lowercase());
        at = end;
    }
    let text = texts.get(&labels.join("."));
    let data = match (query[at + 2], text) {
        (1, _) => Some(vec![127, 0, 0, 1]),
        (16, Some(text)) => {
            // In two strings, as long records come.
            let (head, tail) = text.split_at(text.len() / 2);
            let string = |part: &str| [&[part.len() as u8], part.as_bytes()].concat();
            Some([string(head), string(tail)].concat())
        }
        _ => None,
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    answer.extend(&query[12..at + 5]);
    if let Some(data) = data {
        answer.extend([0xC0, 12, 0, query[at + 2], 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
        answer.extend(data);
    }
    answer
}

/// A host that gives one answer to whoever asks for the file; what it was asked lies in `asked`.
struct Host {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Host {
    async fn start() -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked): (Arc<Mutex<String>>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (says, noted) = (answer.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                noted.lock().unwrap().push(String::from_utf8(head).unwrap().to_ascii_lowercase());
                let answer = says.lock().unwrap().clone();
                let _ = stream.write_all(answer.as_bytes()).await; // who has read enough is gone
            }
        });
        Host { address, answer, asked, serving }
    }

    fn says(&self, status: &str, body: &str) {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        *self.answer.lock().unwrap() = answer;
    }
}

const FAILED: &str = "DomainOwnerVerifyFail";
const TEXT: &str = "Owner verification of the root domain failed.";

async fn content(rig: &Rig, name: &str) -> String {
    let answer = rig.ask(CDN, "DescribeVerifyContent", &[("DomainName", name)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["Content"].as_str().unwrap().to_owned()
}

async fn verify(rig: &Rig, name: &str, how: &str) -> Answer {
    rig.ask(CDN, "VerifyDomainOwner", &[("DomainName", name), ("VerifyType", how)]).await
}

async fn add(rig: &Rig, action: &str, names: &str) -> Answer {
    let sources = ("Sources", r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#);
    match action {
        "AddVodDomain" => rig.ask(VOD, action, &[("DomainName", names), sources]).await,
        _ => rig.ask(CDN, action, &[("DomainName", names), ("CdnType", "web"), sources]).await,
    }
}

#[tokio::test]
async fn name_is_proven_by_its_dns_and_by_a_file_of_its_host() {
    let (names, host) = (NameServer::start().await, Host::start().await);
    let rig = Rig::with("cdn-2024", &[], 0, |config| {
        config.resolvers = vec![names.address];
        config.verify_private_addresses = true;
        config.verify_port = host.address.port();
    })
    .await;
    let of_b = content(&rig, "b.com").await;
    assert_eq!(content(&rig, "b.com").await, of_b, "it stays");
    let twin = rig.ask(VOD, "DescribeVodVerifyContent", &[("DomainName", "b.com")]).await.json();
    assert_eq!(twin["Content"], of_b);

    assert_refused(&verify(&rig, "b.com", "dnsCheck").await, 400, FAILED, TEXT);
    names.shows("verification.b.com", "something else");
    assert_refused(&verify(&rig, "b.com", "dnsCheck").await, 400, FAILED, TEXT);
    names.shows("verification.b.com", &of_b);
    let answer = verify(&rig, "B.com", "dnsCheck").await;
    assert_eq!((answer.status, answer.json()["Content"].as_str()), (200, Some(of_b.as_str())), "{answer:?}");
    assert_refused(&verify(&rig, ".b.com", "dnsCheck").await, 400, FAILED, TEXT);
    names.shows("_verification.b.com", &of_b);
    assert_eq!(verify(&rig, ".b.com", "dnsCheck").await.status, 200);

    let of_c = content(&rig, "c.com").await;
    let whole = format!("\n{of_c}\r\n");
    let padded = format!("{of_c}{}", " ".repeat(5000));
    let cases = [
        ("200 OK", of_c.as_str(), 200),
        ("200 OK", &whole, 200),
        ("200 OK", &of_b, 400),
        ("200 OK", "", 400),
        ("200 OK", &padded, 400),
        ("404 Not Found", &of_c, 400),
        ("301 Moved Permanently\r\nlocation: /verification.html", &of_c, 400),
    ];
    for (status, body, expected) in cases {
        host.says(status, body);
        let answer =
            rig.ask(VOD, "VerifyVodDomainOwner", &[("DomainName", "c.com"), ("VerifyType", "fileCheck")]).await;
        assert_eq!(answer.status, expected, "{status}: {answer:?}");
        assert!(expected == 200 || answer.words().1 == FAILED, "{answer:?}");
    }
    host.says("200 OK", &of_c);
    assert_refused(&verify(&rig, ".c.com", "fileCheck").await, 400, FAILED, TEXT);
    let asked = host.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), cases.len(), "each once: nothing is followed");
    assert!(asked.iter().all(|head| head.starts_with("get /verification.html http/1.1\r\n")), "{asked:?}");
    assert!(asked.iter().all(|head| head.contains("host: c.com\r\n")), "{asked:?}");

    // It changes nothing where nobody asks for proofs.
    assert_eq!(add(&rig, "AddCdnDomain", "unproven.com").await.status, 200);
}

#[tokio::test]
async fn nothing_is_fetched_from_the_control_planes_own_network() {
    let (names, host) = (NameServer::start().await, Host::start().await);
    let rig = Rig::with("cdn-2024", &[], 0, |config| {
        config.resolvers = vec![names.address];
        config.verify_port = host.address.port();
    })
    .await;
    host.says("200 OK", &content(&rig, "c.com").await);
    assert_refused(&verify(&rig, "c.com", "fileCheck").await, 400, FAILED, TEXT);
    assert!(host.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn silent_host_is_not_waited_for() {
    let names = NameServer::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap(); // takes connections, and says nothing
    let rig = Rig::with("cdn-2024", &[], 0, |config| {
        config.resolvers = vec![names.address];
        config.verify_private_addresses = true;
        config.verify_port = silent.local_addr().unwrap().port();
    })
    .await;
    let began = tokio::time::Instant::now();
    assert_refused(&verify(&rig, "c.com", "fileCheck").await, 400, FAILED, TEXT);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_proven_names_become_domains_where_the_operator_wants_it() {
    let names = NameServer::start().await;
    let set = |config: &mut ControlConfig| {
        config.resolvers = vec![names.address];
        config.verify_domain_owners = true;
    };
    let rig = Rig::bare("cdn-2024", &[], 0, set).await;
    for action in ["AddCdnDomain", "BatchAddCdnDomain", "AddVodDomain"] {
        assert_refused(&add(&rig, action, "b.com").await, 400, FAILED, TEXT);
    }
    names.shows("verification.b.com", &content(&rig, "b.com").await);
    names.shows("_verification.c.com", &content(&rig, "c.com").await);
    for name in ["b.com", "c.com"] {
        assert_eq!(verify(&rig, name, "dnsCheck").await.status, 200);
    }
    let cases = [
        ("AddCdnDomain", "b.com", true),
        ("AddVodDomain", "www.b.com", false),
        ("AddVodDomain", ".b.com", false),
        ("AddVodDomain", "c.com", true),
        ("BatchAddCdnDomain", "x.c.com,x.y.c.com", true),
        ("BatchAddCdnDomain", "z.c.com,d.com", false),
        ("AddCdnDomain", "xc.com", false),
        ("AddCdnDomain", ".w.c.com", true),
        ("AddCdnDomain", ".c.com", true),
    ];
    for (action, name, good) in cases {
        let answer = add(&rig, action, name).await;
        match good {
            true => assert_eq!(answer.status, 200, "{name}: {answer:?}"),
            false => assert_refused(&answer, 400, FAILED, TEXT),
        }
    }
    // What one account proved is nothing of another's.
    rig.operator.create_account("other", "cdn-2024", BTreeMap::new(), 0).await.unwrap();
    let key = rig.operator.create_key("other", None).await.unwrap();
    let other = Signer { id: key.id, secret: key.secret.to_string(), token: None };
    let sources = ("Sources", r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#);
    let params = [("DomainName", "q.c.com"), ("CdnType", "web"), sources];
    assert_refused(&rig.v1(&other, CDN, "AddCdnDomain", &params, "n").await, 400, FAILED, TEXT);
    let params = [("DomainName", "b.com"), ("VerifyType", "dnsCheck")];
    assert_refused(&rig.v1(&other, CDN, "VerifyDomainOwner", &params, "m").await, 400, FAILED, TEXT);
}
