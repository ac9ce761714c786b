//! Whom a node asks and how long it waits, to the second: over a network in memory, with a clock that advances only
//! while all tasks are idle.

use std::io;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use model::fence::Asker;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::*;
use crate::figures::Figures;
use crate::fill::Purpose;
use crate::network::{Endpoint, Stream};
use crate::upstream::{ASK_MAX, ASK_THROUGH_MAX, AskError, Asked, From, PAST_PARENTS_MAX, Question, Upstream, no_body};

/// The behaviour of a host.
#[derive(Clone, Copy)]
enum Manner {
    Refuses,
    /// Connecting takes for ever.
    Vanished,
    /// Accepts the connection and never answers.
    Silent,
    /// Closes the connection when a request arrives.
    Breaks,
    /// Answers with this status.
    Says(u16),
    /// Answers the first request of each connection, and closes it at the second.
    OncePerConnection,
    /// A parent that answers greetings at once, and everything else after so many seconds.
    Alive(u64),
    /// Reads the whole request body and answers with this status; 0 means never.
    TakesAll(u16),
    /// Reads nothing of a request body.
    TakesNothing,
}

use Manner::*;

#[derive(Clone, Default)]
struct Hosts {
    manners: Arc<Mutex<HashMap<String, Manner>>>,
    /// Hosts a connection was requested to, oldest first.
    connected: Arc<Mutex<Vec<String>>>,
    /// Hosts a request arrived at, oldest first.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hosts {
    fn set(&self, host: &str, manner: Manner) {
        self.manners.lock().unwrap().insert(host.to_owned(), manner);
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl crate::Network for Hosts {
    fn connect(&self, to: Endpoint) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (hosts, host) = (self.clone(), to.host);
        hosts.connected.lock().unwrap().push(host.clone());
        let manner = hosts.manners.lock().unwrap()[&host];
        async move {
            match manner {
                Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
                Vanished => std::future::pending::<()>().await,
                _ => {}
            }
            let (near, far) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move { serve(far, hosts, host, manner).await });
            Ok(Box::new(near) as Box<dyn Stream>)
        }
        .boxed()
    }
}

/// Answers according to `manner` until the connection is closed.
async fn serve(mut stream: DuplexStream, hosts: Hosts, host: String, manner: Manner) -> Option<()> {
    for nth in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let greeting = head.contains("warmfront-alive");
        if !greeting {
            hosts.asked.lock().unwrap().push(host.clone());
        }
        let status = match manner {
            Says(status) => status,
            OncePerConnection if nth == 0 => 200,
            Alive(_) if greeting => 204,
            Alive(secs) => {
                tokio::time::sleep(Duration::from_secs(secs)).await;
                200
            }
            Breaks | OncePerConnection => return None,
            TakesAll(_) if greeting => 204,
            TakesAll(status) => {
                let (mut body, mut some) = (Vec::new(), vec![0; 16 << 10]);
                while !body.ends_with(b"\r\n0\r\n\r\n") {
                    let read = stream.read(&mut some).await.ok().filter(|read| *read > 0)?;
                    body.extend_from_slice(&some[..read]);
                }
                if status == 0 {
                    std::future::pending::<()>().await;
                }
                status
            }
            Silent | TakesNothing | Refuses | Vanished => std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status} x\r\nwarmfront-age: 0\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
    None
}

/// A node that asks these sources or parents.
struct Asking {
    hosts: Hosts,
    knowing: Arc<Knowing>,
    upstream: Upstream,
}

impl Asking {
    async fn set(sources: &[(&str, Manner)], parents: &[(&str, Manner)]) -> Asking {
        let hosts = Hosts::default();
        // The first is the primary, the others are backups.
        let priority = |at: usize| 20 + at as u16;
        let listed = sources.iter().enumerate().map(|(at, (name, _))| source(name, 80, priority(at))).collect();
        let mut knowledge = knowledge_of(listed);
        for (name, manner) in sources.iter().chain(parents) {
            hosts.set(name, *manner);
        }
        let nowhere = "127.0.0.1:1".parse().unwrap();
        for (name, tier) in parents.iter().map(|(name, _)| (*name, Tier::L2)).chain([("edge", Tier::L1)]) {
            let advertise_url = format!("http://{name}");
            let member = Member { advertise_url, ..member(name, "pop-1", tier, nowhere) };
            knowledge.topology.members.insert(member.name.clone(), member);
        }
        let name = NodeName::parse("edge").unwrap();
        let knowing = Arc::new(Knowing::new(name, Isolation::Revalidate, clock(), None));
        knowing.join(LogId("log".into()), PEERS.into(), Revision(1), knowledge).await;
        let upstream =
            Upstream::new(knowing.clone(), Arc::new(hosts.clone()), Arc::new(Figures::new(knowing.clock().now())));
        Asking { hosts, knowing, upstream }
    }

    fn question(&self, method: &Method, purpose: Purpose) -> Question {
        let key = UrlKey::new(DOMAIN, "/a").unwrap();
        let (fetch, log) = self.knowing.begin_fetch(&key, Asker::User);
        let domain = Arc::new(self.knowing.known().knowledge.domain_for(DOMAIN).unwrap().clone());
        let (method, headers) = (method.clone(), HeaderMap::new());
        let asked = Asked { host: DOMAIN.to_owned(), path: key.path_and_query().to_owned(), secure: false };
        Question {
            method,
            key,
            asked,
            domain,
            headers,
            fetch,
            log,
            passed: Vec::new(),
            purpose,
            refetch: 0,
            copy: None,
            interim: None,
            again: false,
            uncoded: false,
            awaited: None,
            wanted: None,
        }
    }

    /// The outcome of a request, and after how many seconds.
    async fn ask(&self, method: &Method, purpose: Purpose) -> (Result<u16, AskError>, u64) {
        let began = Instant::now();
        // As the pipeline does for a method it does not know: with a body, though it is empty.
        let body = (method == Method::POST).then(no_body);
        let answer = self.upstream.ask(&self.question(method, purpose), body).await;
        let secs = began.elapsed().as_secs();
        let answer = match answer {
            Ok(answer) => {
                // Read to its end, so that the connection is kept.
                let status = answer.head.status.as_u16();
                let _ = answer.body.collect().await;
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                Ok(status)
            }
            Err(error) => Err(error),
        };
        (answer, secs)
    }

    /// The same for a body of so many pieces of 64 KiB, each after so many seconds.
    async fn upload(&self, pieces: u64, pause: u64) -> (Result<u16, AskError>, u64) {
        let began = Instant::now();
        let body = futures_util::stream::unfold(0, move |sent| async move {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let piece = Frame::data(Bytes::from(vec![b'x'; 64 << 10]));
            (sent < pieces).then(|| (Ok::<_, Box<dyn std::error::Error + Send + Sync>>(piece), sent + 1))
        });
        let body = http_body_util::StreamBody::new(body).boxed_unsync();
        let answer = self.upstream.ask(&self.question(&Method::PUT, Purpose::User), Some(body)).await;
        (answer.map(|answer| answer.head.status.as_u16()), began.elapsed().as_secs())
    }

    async fn get(&self) -> (Result<u16, AskError>, u64) {
        self.ask(&Method::GET, Purpose::User).await
    }
}

/// The behaviour of the first of two sources, the method, the answer, its seconds, who was asked, why.
type SourceCase = (Manner, Method, Result<u16, ()>, u64, &'static [&'static str], &'static str);

/// The behaviour of the only parent, who asks, the answer, its seconds, whether the origin was asked, why.
type ParentCase = (Manner, Purpose, Result<u16, &'static str>, u64, bool, &'static str);

#[tokio::test(start_paused = true)]
async fn next_source_is_asked_where_one_fails_and_that_is_safe() {
    let cases: &[SourceCase] = &[
        // first source  method        answer   secs  who was asked  why
        (Says(200), Method::GET, Ok(200), 0, &["a"], "the first is well"),
        (Refuses, Method::GET, Ok(200), 0, &["b"], "cannot be reached"),
        (Vanished, Method::GET, Ok(200), 5, &["b"], "no connection in time"),
        (Silent, Method::GET, Ok(200), 30, &["a", "b"], "no first byte in time"),
        (Breaks, Method::GET, Ok(200), 0, &["a", "b"], "breaks off before its answer"),
        (Says(502), Method::GET, Ok(200), 0, &["a", "b"], "cannot serve now"),
        (Says(503), Method::HEAD, Ok(200), 0, &["a", "b"], "cannot serve now"),
        (Says(504), Method::GET, Ok(200), 0, &["a", "b"], "cannot serve now"),
        (Says(500), Method::GET, Ok(500), 0, &["a"], "an answer of the application"),
        (Says(404), Method::GET, Ok(404), 0, &["a"], "an answer"),
        (Refuses, Method::POST, Ok(200), 0, &["b"], "nothing was sent"),
        (Vanished, Method::POST, Ok(200), 5, &["b"], "nothing was sent"),
        (Breaks, Method::POST, Err(()), 0, &["a"], "it may have been done"),
        (Silent, Method::POST, Err(()), 30, &["a"], "it may have been done"),
        (Says(503), Method::POST, Ok(503), 0, &["a"], "it may have been done"),
    ];
    for (first, method, expected, secs, asked, why) in cases {
        let asking = Asking::set(&[("a", *first), ("b", Says(200))], &[]).await;
        let (answer, took) = asking.ask(method, Purpose::User).await;
        assert_eq!((answer.map_err(|_| ()), took), (*expected, *secs), "{method}: {why}");
        assert_eq!(asking.hosts.taken(), *asked, "{method}: {why}");
    }
}

#[tokio::test(start_paused = true)]
async fn body_may_take_hours_and_its_origin_is_waited_for_from_its_end() {
    let cases = [
        // origin        pieces  pause  answer                   seconds
        (TakesAll(201), 400, 20, Ok(201), 8_020..=8_021, "it gets on"),
        (TakesAll(0), 10, 20, Err(AskError::Timeout), 820..=823, "nothing comes when all is sent"),
        (TakesNothing, 10_000, 0, Err(AskError::Timeout), 60..=63, "it takes nothing"),
    ];
    for (manner, pieces, pause, expected, secs, why) in cases {
        let asking = Asking::set(&[("a", manner), ("b", Says(200))], &[]).await;
        let (answer, took) = asking.upload(pieces, pause).await;
        assert_eq!(answer, expected, "{why}");
        assert!(secs.contains(&took), "{why}: {took} s");
        assert_eq!(asking.hosts.taken(), ["a"], "a body is sent to nobody else");
    }
    // The same through a parent.
    let asking = Asking::set(&[("origin", Says(200))], &[("parent", TakesAll(201))]).await;
    let (answer, took) = asking.upload(40, 20).await;
    assert_eq!((answer, took), (Ok(201), 820));
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_last_answer_is_the_answer_and_the_wait_is_bounded() {
    let cases = [
        // sources                               answer                      secs
        (vec![("a", Says(502)), ("b", Says(503))], Ok(503), 0),
        (vec![("a", Says(503)), ("b", Refuses)], Ok(503), 0),
        (vec![("a", Refuses), ("b", Says(504))], Ok(504), 0),
        (vec![("a", Silent), ("b", Silent), ("c", Silent)], Err(AskError::Timeout), ASK_MAX.as_secs()),
    ];
    for (sources, expected, secs) in cases {
        let asking = Asking::set(&sources, &[]).await;
        assert_eq!(asking.get().await, (expected, secs));
    }
}

#[tokio::test(start_paused = true)]
async fn source_that_fails_in_a_row_rests_and_one_trial_brings_it_back() {
    let asking = Asking::set(&[("a", Says(503)), ("b", Says(200))], &[]).await;
    for _ in 0..3 {
        asking.get().await.0.unwrap();
    }
    assert_eq!(asking.hosts.taken(), ["a", "b", "a", "b", "a", "b"]);
    for _ in 0..3 {
        assert_eq!(asking.get().await.0, Ok(200));
    }
    assert_eq!(asking.hosts.taken(), ["b", "b", "b"], "it rests");
    tokio::time::advance(Duration::from_secs(7)).await;
    for _ in 0..3 {
        assert_eq!(asking.get().await.0, Ok(200));
    }
    assert_eq!(asking.hosts.taken(), ["a", "b", "b", "b"], "one trial");
    asking.hosts.set("b", Refuses);
    // A kept connection would go on to work for a while.
    tokio::time::advance(Duration::from_secs(60)).await;
    asking.hosts.set("a", Says(200));
    for _ in 0..2 {
        assert_eq!(asking.get().await.0, Ok(200));
    }
    assert_eq!(asking.hosts.taken(), ["a", "a"], "and it is back");
}

#[tokio::test(start_paused = true)]
async fn kept_connection_that_was_closed_is_asked_again_on_a_new_one_if_that_is_safe() {
    let asking = Asking::set(&[("a", OncePerConnection)], &[]).await;
    assert_eq!(asking.get().await.0, Ok(200));
    assert_eq!(asking.get().await.0, Ok(200), "once more, on another connection");
    assert_eq!(asking.hosts.connected.lock().unwrap().len(), 2);
    assert_eq!(asking.hosts.taken(), ["a", "a", "a"]);
    let (answer, _) = asking.ask(&Method::POST, Purpose::User).await;
    assert!(answer.is_err(), "it may have been done");

    let asking = Asking::set(&[("a", Says(200))], &[]).await;
    for _ in 0..3 {
        assert_eq!(asking.get().await.0, Ok(200));
    }
    assert_eq!(asking.hosts.connected.lock().unwrap().len(), 1, "a connection is kept");
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(asking.get().await.0, Ok(200));
    assert_eq!(asking.hosts.connected.lock().unwrap().len(), 2, "but not for ever");
}

#[tokio::test(start_paused = true)]
async fn stalled_parent_is_found_out_and_one_that_waits_is_waited_for() {
    let cases: &[ParentCase] = &[
        // the only parent  for whom      answer   secs  origin asked  why
        (Says(200), Purpose::User, Ok(200), 0, false, "the parent answers"),
        (Alive(20), Purpose::User, Ok(200), 20, false, "it is alive and waits for the origin"),
        (Alive(1000), Purpose::User, Err("no answer in time"), ASK_THROUGH_MAX.as_secs(), false, "not for ever"),
        (Silent, Purpose::User, Ok(200), 4, true, "it does not answer a greeting"),
        (Refuses, Purpose::User, Ok(200), 0, true, "it is gone"),
        (Vanished, Purpose::User, Ok(200), 2, true, "it is cut off"),
        (Refuses, Purpose::Prefetch, Err("asks for a retry in 1 seconds"), 0, false, "it may be back in a moment"),
        (Silent, Purpose::Prefetch, Err("asks for a retry in 1 seconds"), 4, false, "it may be back in a moment"),
    ];
    for (parent, purpose, expected, secs, origin, why) in cases {
        let asking = Asking::set(&[("o", Says(200))], &[("p", *parent)]).await;
        let (answer, took) = asking.ask(&Method::GET, *purpose).await;
        match (&answer, expected) {
            (Ok(status), Ok(expected)) => assert_eq!(status, expected, "{why}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{why}: {error}"),
            other => panic!("{why}: {other:?}"),
        }
        assert_eq!((took, asking.hosts.taken().contains(&"o".to_owned())), (*secs, *origin), "{why}");
    }
}

/// Another parent would ask the origin once more for objects that the first one has.
#[tokio::test(start_paused = true)]
async fn prefetch_waits_a_while_for_a_parent_that_has_just_gone() {
    for back in [true, false] {
        // No connection is kept from a host's earlier behaviour.
        let asking = Asking::set(&[("o", Says(200))], &[("p", OncePerConnection), ("q", OncePerConnection)]).await;
        assert_eq!(asking.ask(&Method::GET, Purpose::Prefetch).await.0, Ok(200));
        let [first] = asking.hosts.taken().try_into().unwrap();
        let second = if first == "p" { "q" } else { "p" };
        asking.hosts.set(&first, Breaks);
        let gone = Instant::now();
        let mut put_off = 0;
        let came = loop {
            match asking.ask(&Method::GET, Purpose::Prefetch).await.0 {
                Ok(status) => break status,
                Err(AskError::Busy(after)) => tokio::time::sleep(after).await,
                Err(error) => panic!("{error}"),
            }
            put_off += 1;
            if back && put_off == 3 {
                asking.hosts.set(&first, OncePerConnection);
            }
        };
        let took = gone.elapsed().as_secs();
        let asked = asking.hosts.taken();
        let (answered, tries) = asked.split_last().unwrap();
        assert_eq!((came, answered.as_str()), (200, if back { &*first } else { second }));
        assert!(
            tries.iter().all(|host| *host == first) && tries.len() <= 4,
            "it is not asked while it rests: {asked:?}"
        );
        let expected = if back { 3..=7 } else { 15..=16 };
        assert!(expected.contains(&took), "{took} seconds");

        // Users wait for no parent; and with all parents gone, a prefetch still does not go past them.
        asking.hosts.set(&first, Breaks);
        assert_eq!(asking.ask(&Method::GET, Purpose::User).await, (Ok(200), 0));
        asking.hosts.set(second, Breaks);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut last = asking.ask(&Method::GET, Purpose::Prefetch).await.0;
        while let Err(AskError::Busy(after)) = last {
            tokio::time::sleep(after).await;
            last = asking.ask(&Method::GET, Purpose::Prefetch).await.0;
        }
        assert!(matches!(last, Err(AskError::NotPastParents(_))), "{last:?}");
        assert!(!asking.hosts.taken().contains(&"o".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn parents_come_before_the_origin_and_it_is_asked_past_them_a_bounded_number_of_times() {
    let asking = Asking::set(&[("o", Says(200))], &[("p", Refuses), ("q", Says(200))]).await;
    for _ in 0..4 {
        assert_eq!(asking.get().await.0, Ok(200));
    }
    assert_eq!(asking.hosts.taken(), ["q"; 4], "the other parent");

    let asking = Asking::set(&[("o", Alive(10))], &[("p", Refuses), ("q", Refuses)]).await;
    let asking = Arc::new(asking);
    let running: Vec<_> = (0..PAST_PARENTS_MAX + 3)
        .map(|_| {
            let asking = asking.clone();
            tokio::spawn(async move { asking.get().await.0 })
        })
        .collect();
    let mut refused = 0;
    for one in running {
        match one.await.unwrap() {
            Ok(status) => assert_eq!(status, 200),
            Err(error) => {
                assert!(matches!(error, AskError::NoParent(_)), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, asking.hosts.taken().len()), (3, PAST_PARENTS_MAX));
    // Once the rest is over, the next request tries the parent again.
    asking.hosts.set("p", Says(200));
    asking.hosts.set("q", Says(200));
    tokio::time::advance(Duration::from_secs(70)).await;
    let answer = asking.upstream.ask(&asking.question(&Method::GET, Purpose::User), None).await;
    assert!(matches!(answer.map(|answer| answer.from), Ok(From::Parent(_))));
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_a_stalled_parent_find_it_out_by_one_greeting() {
    let asking = Asking::set(&[("o", Says(200))], &[("p", Silent)]).await;
    let asked = (0..10).map(|_| asking.get());
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers, vec![(Ok(200), 4); 10], "patience, and one greeting");
}

/// A parent and a source that rest, and are tried again.
async fn after_a_rest() -> (Asking, Asking) {
    let child = Asking::set(&[("o", Says(200))], &[("p", Refuses)]).await;
    assert_eq!(child.get().await.0, Ok(200));
    child.hosts.set("p", Alive(3));
    let root = Asking::set(&[("a", Says(503)), ("b", Says(200))], &[]).await;
    for _ in 0..3 {
        assert_eq!(root.get().await.0, Ok(200));
    }
    root.hosts.set("a", Says(200));
    tokio::time::sleep(Duration::from_secs(7)).await;
    for asking in [&child, &root] {
        asking.hosts.taken();
    }
    (child, root)
}

#[tokio::test(start_paused = true)]
async fn trial_that_is_not_made_or_broken_off_is_the_next_requests() {
    let (child, root) = after_a_rest().await;
    for asking in [&child, &root] {
        let mut question = asking.question(&Method::GET, Purpose::User);
        question.asked.path = "/not a path".to_owned();
        let answer = asking.upstream.ask(&question, None).await;
        assert_eq!(answer.err(), Some(AskError::BadUrl));
        let question = asking.question(&Method::GET, Purpose::User);
        let mut left = Box::pin(asking.upstream.ask(&question, None));
        assert!(futures_util::poll!(left.as_mut()).is_pending(), "its client leaves");
        drop(left);
        assert_eq!(asking.get().await.0, Ok(200));
    }
    assert_eq!((child.hosts.taken().pop().as_deref(), root.hosts.taken().pop().as_deref()), (Some("p"), Some("a")));
}

#[tokio::test(start_paused = true)]
async fn trial_of_a_parent_goes_on_as_a_users_request_once_a_user_waits() {
    for purpose in [Purpose::Prefetch, Purpose::Revalidation] {
        let (child, _) = after_a_rest().await;
        let (waits, awaited) = tokio::sync::watch::channel(false);
        let question = Question { awaited: Some(awaited), ..child.question(&Method::GET, purpose) };
        let asked = child.upstream.ask(&question, None);
        let user = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            waits.send_replace(true);
        };
        let (answer, ()) = futures_util::future::join(asked, user).await;
        assert!(matches!(answer.map(|answer| answer.from), Ok(From::Parent(_))));
        assert_eq!(child.hosts.taken(), ["p", "p"], "nobody went past it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_validated_in_the_background_does_not_go_past_parents() {
    let asking = Asking::set(&[("o", Says(200))], &[("p", Refuses)]).await;
    for _ in 0..3 {
        let (answer, _) = asking.ask(&Method::GET, Purpose::Revalidation).await;
        assert!(matches!(answer, Err(AskError::Busy(_))), "{answer:?}");
    }
    assert!(asking.hosts.taken().is_empty());
}
