//! One running fetch: asks, and delivers the answer to the store and to every waiting request.
//!
//! # What always holds
//!
//! - A body is vouched for by the moment and stamp noted before the request was sent, however often the rest of it was
//!   asked for.
//! - Waiting requests are told as soon as the head arrives; whether the body was stored is told afterwards.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httpcache::NotStorable;
use hyper::body::Body;
use model::fence::{Fetch, Vouched};
use model::mistake::{Mistake, made};
use model::{Cause, Domain, Tags};
use store::WriteError;
use tokio::sync::{oneshot, watch};

use super::pouring::{Broken, Filling, cause};
use super::{
    Arrival, Arrived, ArrivedBody, Came, Confirmable, Fills, LONE_FOR, LoneAnswer, Order, Purpose, Running,
    TOO_LARGE_FOR,
};
use crate::figures::FromAbove;
use crate::functions::keep;
use crate::head::{self, Head, ObjectKey, Series, Stored};
use crate::knowing::LogTag;
use crate::limiter::Awaited;
use crate::lookup::stored;
use crate::slices::{self, Part};
use crate::upstream::{Answer, AskError, From, Question};

/// One running fetch.
pub(super) struct FillTask<'a> {
    pub(super) fills: &'a Arc<Fills>,
    pub(super) order: &'a Order,
    pub(super) running: &'a Running,
    pub(super) fetch: Fetch,
    pub(super) log: LogTag,
    pub(super) told: watch::Sender<Option<Arrival>>,
    /// Whether a user began or joined it.
    pub(super) awaited: Awaited,
}

impl FillTask<'_> {
    pub(super) async fn run(&self, lone: oneshot::Sender<LoneAnswer>) {
        // A fetch that ended between the asker's lookup and the beginning of this one has already brought the object.
        let key = &self.order.key;
        if let Some(object) = stored(&self.fills.store, key).await
            && self.order.seen != Some(object.generation())
        {
            self.tell(Arrival::Again);
            return;
        }
        self.fills.metrics.fetches.inc();
        let mut headers = self.order.headers.clone();
        if let Some(confirm) = &self.order.confirm {
            httpcache::validators(&confirm.head.headers, &mut headers);
        }
        let sizes = self.fills.sizes;
        if let Some(range) = self.order.part.range(sizes) {
            headers.insert(RANGE, range);
        }
        let sent = self.fills.knowing.clock().now();
        let mut part = self.order.part.clone();
        let mut answer = self.ask(&headers, !matches!(part, Part::Whole)).await;
        // The node asked for this slice, not the client. The first slice shows how long the body is, or, if it is
        // empty, the whole does.
        while let (Ok(got), Part::Begin(number)) = (&answer, &part)
            && got.head.status == StatusCode::RANGE_NOT_SATISFIABLE
        {
            part = if *number > 0 { Part::Begin(0) } else { Part::Whole };
            match part.range(sizes) {
                Some(range) => headers.insert(RANGE, range),
                None => headers.remove(RANGE),
            };
            drop(answer);
            answer = self.ask(&headers, !matches!(part, Part::Whole)).await;
        }
        let answer = match answer {
            Ok(answer) if answer.head.status == StatusCode::PARTIAL_CONTENT && !matches!(part, Part::Whole) => {
                match self.kept_part(&part, &answer, sent) {
                    Some(part) => return self.take_part(part, answer).await,
                    None if matches!(self.order.part, Part::Slice(..)) => Ok(answer),
                    // The client asks for its own range instead, and gets that answer.
                    None if self.order.purpose == Purpose::User && self.is_unstorable(&answer, sent) => {
                        self.fills.note_lone(&self.order.key, &self.order.headers, LONE_FOR);
                        return self.tell(Arrival::Lone { failed: false });
                    }
                    None if self.is_whole(&answer) => Ok(as_whole(answer)),
                    None => {
                        // The part cannot be stored, so the whole is fetched. Moment and stamp were noted before, which
                        // is safe.
                        headers.remove(RANGE);
                        drop(answer);
                        self.ask(&headers, false).await
                    }
                }
            }
            answered => answered,
        };
        match (answer, &self.order.part) {
            (Err(error), _) => self.tell(Arrival::Failed(error)),
            (Ok(answer), Part::Slice(_, series, _)) => {
                let status = answer.head.status;
                if slices::is_another(status) {
                    self.forget_series(series).await;
                }
                // A failure says nothing of the body, so its reader may ask again.
                let failed = Cause::OriginStatus(status.as_u16()).is_transient();
                let failure = || AskError::Unreachable(format!("answered {status}"));
                self.tell(Arrival::Failed(if failed { failure() } else { AskError::Changed }));
            }
            (Ok(answer), Part::Whole | Part::Begin(_)) => self.take(answer, sent, lone).await,
        }
    }

    /// Removes the head of a body that can no longer be fetched: slices that were never fetched could not be sent for
    /// as long as the head is fresh. The next request begins another series.
    async fn forget_series(&self, series: &Series) {
        let (store, bare) = (&self.fills.store, ObjectKey::bare(&self.order.url));
        let Ok(Some(object)) = store.lookup(bare.hash(), bare.bytes()).await else { return };
        if matches!(head::read(&object), Some((_, Stored::Object(head))) if head.slices == Some(*series)) {
            // One that replaced it meanwhile stays.
            let _ = store.remove(bare.hash(), bare.bytes(), store::Which::Only(object.generation())).await;
        }
    }

    async fn ask(&self, headers: &HeaderMap, uncoded: bool) -> Result<Answer, AskError> {
        loop {
            let copy = self.order.confirm.as_ref().map(|confirm| confirm.head.copy);
            let question = Question { copy, uncoded, ..self.question(headers.clone()) };
            match self.fills.upstream.ask(&question, None).await {
                // Somebody joined after the last one had left.
                Err(AskError::Left) if !self.running.party.give_up() => {}
                answered => return answered,
            }
        }
    }

    /// Whether a 206 brings the whole body, which is then a short one. An origin was asked for it without a content
    /// coding, so where codings are variants, it is not the variant that was ordered.
    fn is_whole(&self, answer: &Answer) -> bool {
        let (headers, ordered) = (&answer.head.headers, &self.order.headers);
        let other_coding = || self.vary(headers).is_ok_and(|vary| vary.contains(&ACCEPT_ENCODING));
        slices::whole(headers).is_some_and(|length| {
            answer.body.size_hint().exact().is_none_or(|exact| exact == length)
                && !(ordered.contains_key(ACCEPT_ENCODING) && other_coding())
        })
    }

    /// The slice that a 206 brings, if it may be stored.
    fn kept_part(&self, part: &Part, answer: &Answer, sent: SystemTime) -> Option<KeptPart> {
        match part {
            Part::Whole => None,
            Part::Slice(head, series, number) => slices::continues(&answer.head, head, series, *number)
                .then(|| KeptPart { head: head.clone(), series: *series, number: *number, begins: false }),
            Part::Begin(number) => {
                let (mut series, _) = slices::begun(&answer.head, *number, self.fills.sizes)?;
                let received = self.fills.knowing.clock().now();
                let mut headers = httpcache::end_to_end(&answer.head.headers);
                httpcache::OF_CONTENT.into_iter().for_each(|name| _ = headers.remove(name));
                self.mark(StatusCode::OK, &mut headers);
                let kept = httpcache::kept(&headers, received);
                if own_head(&headers, &kept) {
                    return None;
                }
                let headers = kept;
                let ok = StatusCode::OK;
                let storable = self.storable(ok, &headers, sent, received);
                if storable.is_err() || !self.vary(&headers).ok()?.is_empty() {
                    return None;
                }
                // No two heads share a series: neither those of two logs, nor of two moments, nor of two validators.
                let moment =
                    format!("{} {} {:?} {sent:?} {}", self.log.0, self.fetch.stamp, self.fetch.sent, series.name);
                series.name = xxhash_rust::xxh3::xxh3_128(moment.as_bytes());
                let head = Head::new(self.log, ok, headers, sent, received).sliced(series);
                let head = head.fetched_for(self.refetch(answer)).copy_of(self.copy(answer, sent));
                Some(KeptPart { head: Arc::new(head), series, number: *number, begins: true })
            }
        }
    }

    /// Whether a part that came is of an object that may not be stored.
    fn is_unstorable(&self, answer: &Answer, sent: SystemTime) -> bool {
        let mut headers = httpcache::end_to_end(&answer.head.headers);
        self.mark(StatusCode::OK, &mut headers);
        self.storable(StatusCode::OK, &headers, sent, self.fills.knowing.clock().now()).is_err()
    }

    /// Delivers a slice, and the head if it begins one, to the store and to the waiting requests.
    async fn take_part(&self, part: KeptPart, answer: Answer) {
        let vouched = self.noted().vouch(answer.age);
        let x_cache = answer.head.headers.get("x-cache").filter(|_| answer.from != From::Origin).cloned();
        let came = Came { from: answer.from.clone(), x_cache, status: StatusCode::OK };
        let KeptPart { head, series, number, begins } = part;
        if !begins {
            self.join_tags(&head, &series, &answer.head.headers).await;
        }
        let filled = match self.open_part(&head, &series, number, vouched, begins).await {
            Ok(filled) => filled,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "slice was not stored");
                return self.tell(Arrival::Failed(AskError::NotTaken));
            }
        };
        let (done, finished) = watch::channel(None);
        let follower = filled.fill.follow();
        let body = if begins {
            self.sliced(&head, series, Some((number, follower)))
        } else {
            ArrivedBody::Growing(follower, filled.length)
        };
        let arrived = Arrived {
            head,
            alone: false,
            own_head: None,
            vouched,
            body,
            vary: Vec::new(),
            values: Vec::new(),
            came,
            done: finished,
        };
        self.tell(Arrival::Body(Arc::new(arrived)));
        done.send_replace(Some(self.pour_part(answer.body, filled).await));
    }

    /// Begins to store a slice, after its head when it is the first.
    async fn open_part(
        &self,
        head: &Head,
        series: &Series,
        number: u64,
        vouched: Vouched,
        begins: bool,
    ) -> Result<Filling, WriteError> {
        let store = &self.fills.store;
        if begins {
            let bare = ObjectKey::bare(&self.order.url);
            let fill = store.begin_fill(bare.hash(), bare.bytes(), head.encode(), vouched.stamp.0, Some(0))?;
            let overtaken = self.turn_to_store(&bare).await;
            if !*overtaken {
                let (object, _durable) = fill.finish_visible().await?;
                self.remember(&bare, object.generation(), vouched);
            }
        }
        let key = ObjectKey::slice(&self.order.url, series, number);
        let range = series.range(number);
        let length = Some(range.end - range.start);
        let fill = store.begin_fill(key.hash(), key.bytes(), head::encode_slice(self.log), vouched.stamp.0, length)?;
        Ok(Filling { key, fill, length })
    }

    /// Stores the bytes of a slice. One that breaks off is not continued by range: its readers fetch it again
    /// ([`slices`]).
    async fn pour_part(&self, mut body: FromAbove, filling: Filling) -> Result<(), Cause> {
        let Filling { mut fill, length, .. } = filling;
        match self.pour_some(&mut body, &mut fill, length).await {
            Ok(()) => {}
            Err(Broken::Store(error)) => return Err(cause(&error)),
            Err(Broken::Body(cause)) => return Err(cause),
        }
        drop(body);
        fill.finish_visible().await.map_err(|error| cause(&error))?;
        self.fills.metrics.slices_stored.inc();
        Ok(())
    }

    /// The moment and stamp noted before the request was sent (rules 1 and 5).
    fn noted(&self) -> Fetch {
        let (mut noted, knowing) = (self.fetch, &self.fills.knowing);
        if made(Mistake::StampOnArrival) {
            noted.stamp = noted.stamp.max(knowing.applied());
        }
        if made(Mistake::AgeFromArrival) {
            noted.sent = knowing.clock().moment();
        }
        noted
    }

    pub(super) fn question(&self, headers: HeaderMap) -> Question {
        Question {
            method: Method::GET,
            key: self.order.url.clone(),
            asked: self.order.asked.clone(),
            domain: self.order.domain.clone(),
            headers,
            fetch: self.fetch,
            log: self.log,
            passed: self.order.passed.clone(),
            purpose: self.order.purpose,
            refetch: self.order.refetch,
            copy: None,
            interim: self.order.interim.clone(),
            again: self.order.again,
            uncoded: false,
            awaited: (self.order.purpose != Purpose::User).then(|| self.awaited.clone()),
            wanted: (self.order.purpose == Purpose::Prefetch).then(|| self.running.party.wanted.subscribe()),
        }
    }

    /// Identifies the origin's answer that this one is a copy of: the parent's word, or a new number for an origin's
    /// own answer.
    fn copy(&self, answer: &Answer, sent: SystemTime) -> u64 {
        if let From::Parent(_) = answer.from {
            return answer.copy;
        }
        let fills = self.fills;
        let which = format!("{} {sent:?} {} {}", fills.knowing.name(), fills.metrics.fetches.get(), self.order.url);
        xxhash_rust::xxh3::xxh3_64(which.as_bytes()).max(1)
    }

    /// The refetch that the answer was fetched for: a parent may already have had it.
    fn refetch(&self, answer: &Answer) -> u64 {
        if answer.from == From::Origin { self.order.refetch } else { answer.refetch }
    }

    /// Records in a head what the domain's functions make of it.
    fn mark(&self, status: StatusCode, headers: &mut HeaderMap) {
        keep::mark(&self.order.domain.functions, &self.order.asked.path, status, headers);
    }

    fn vary(&self, headers: &HeaderMap) -> Result<Vec<HeaderName>, httpcache::VaryStar> {
        keep::vary(&self.order.domain.functions, headers)
    }

    /// Whether an answer of this status is a failure, for which a stored response may stand in.
    fn is_failure(&self, status: StatusCode) -> bool {
        keep::is_failure(&self.order.domain.functions, status)
    }

    /// Whether an answer with this head may be stored.
    fn storable(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        sent: SystemTime,
        received: SystemTime,
    ) -> Result<httpcache::Freshness, httpcache::NotStorable> {
        let said = keep::effective(headers);
        httpcache::storable(&Method::GET, &self.order.headers, status, &said, sent, received)
    }

    /// A sliced body, as the request that ordered this fetch reads it.
    fn sliced(&self, head: &Arc<Head>, series: Series, coming: Option<(u64, store::Follower)>) -> ArrivedBody {
        ArrivedBody::Sliced(Box::new(slices::Body {
            fills: self.fills.clone(),
            url: self.order.url.clone(),
            asked: self.order.asked.clone(),
            domain: self.order.domain.clone(),
            headers: self.order.headers.clone(),
            asker: self.order.asker,
            passed: self.order.passed.clone(),
            head: head.clone(),
            series,
            coming,
            only_stored: false,
        }))
    }

    fn tell(&self, arrival: Arrival) {
        self.told.send_replace(Some(arrival));
    }

    async fn take(&self, mut answer: Answer, sent: SystemTime, lone: oneshot::Sender<LoneAnswer>) {
        let received = self.fills.knowing.clock().now();
        let x_cache = answer.head.headers.remove("x-cache").filter(|_| answer.from != From::Origin);
        let came = Came { from: answer.from.clone(), x_cache: x_cache.clone(), status: answer.head.status };
        if answer.head.status == StatusCode::NOT_MODIFIED
            && let Some(confirm) = &self.order.confirm
        {
            match self.confirm(confirm, &answer, came, sent, received).await {
                Some(arrived) => self.tell(Arrival::Body(Arc::new(arrived))),
                None => self.tell(Arrival::Again),
            }
            return;
        }
        let vouched = self.noted().vouch(answer.age);
        let mut headers = httpcache::end_to_end(&answer.head.headers);
        let status = answer.head.status;
        self.mark(status, &mut headers);
        let storable = self.storable(status, &headers, sent, received);
        let kept = httpcache::kept(&headers, received);
        let why = match storable {
            Ok(_) if !same_tags(&self.order.domain, &headers, &kept) => {
                Cause::NotStorable("a field that names its tags may not be kept".to_owned())
            }
            Ok(_) if self.order.stands_in && self.is_failure(status) => {
                Cause::NotStorable("it failed, and what is stored stands in".to_owned())
            }
            // Users go on being served the stored response (decision 0024).
            Ok(_) if self.order.refetch > 0 && !status.is_success() => Cause::OriginStatus(status.as_u16()),
            // What is stored under the key may stand in for this failure.
            Ok(_)
                if self.order.purpose == Purpose::Prefetch && self.order.seen.is_some() && self.is_failure(status) =>
            {
                Cause::OriginStatus(status.as_u16())
            }
            Ok(_)
                if self.order.refetch > 0
                    && !Head::new(self.log, status, headers.clone(), sent, received).freshness.is_fresh(received) =>
            {
                Cause::NotStorable(super::NOT_FRESH.to_owned())
            }
            // The log was replaced by another during the fetch: the stamp means nothing there.
            Ok(_) if self.fills.knowing.known().tag != self.log => Cause::Evicted,
            Ok(_) => {
                let own_head = own_head(&headers, &kept).then(|| Head::new(self.log, status, headers, sent, received));
                let head = Head::new(self.log, status, kept, sent, received).fetched_for(self.refetch(&answer));
                let head = Arc::new(head.copy_of(self.copy(&answer, sent)));
                match self.open(&head, own_head.map(Arc::new), &answer, vouched, came).await {
                    Ok((arrived, fill, done)) => {
                        let arrived = Arc::new(arrived);
                        self.tell(Arrival::Body(arrived.clone()));
                        let stored = self.pour(answer.body, fill, &arrived).await;
                        if let Err(cause) = &stored {
                            tracing::debug!(url = %self.order.url, %cause, "fetch was not stored");
                            if *cause == Cause::TooLarge {
                                self.fills.note_lone(&self.order.key, &self.order.headers, TOO_LARGE_FOR);
                            }
                        }
                        done.send_replace(Some(stored));
                        return;
                    }
                    Err(error) => cause(&error),
                }
            }
            Err(reason) => Cause::NotStorable(reason.to_string()),
        };
        // An answer that failed or was overtaken, or that the store had no room for, says nothing of the next one.
        let failed = self.is_failure(status);
        if !failed && !is_about_request(status) && matches!(why, Cause::NotStorable(_) | Cause::TooLarge) {
            self.fills.note_lone(&self.order.key, &self.order.headers, LONE_FOR);
        }
        // The receiver is gone when the client left, or the prefetch knows enough.
        let _ = lone.send(LoneAnswer { answer, vouched, log: self.log, x_cache, why });
        self.tell(Arrival::Lone { failed });
    }

    /// Applies a 304 to the validator of `confirm`: the stored head is freshened, and the body gets the fetch's stamp
    /// (rule 1). If only the request's credentials forbid storing the 304 (RFC 9111 §3.5), it is for this request alone:
    /// it does not make the stored response, which came without credentials, any worse. `None` if the body is no longer
    /// the stored one, the 304 is about another, or the fetch was overtaken.
    async fn confirm(
        &self,
        confirm: &Confirmable,
        answer: &Answer,
        came: Came,
        sent: SystemTime,
        received: SystemTime,
    ) -> Option<Arrived> {
        let key = &self.order.key;
        // The head of a sliced body may have got tags since it was looked up, and gets more only under this lock.
        let bare = ObjectKey::bare(&self.order.url);
        let mut stored = confirm.head.clone();
        let mut turn = None;
        if stored.slices.is_some() {
            turn = Some(self.fills.turn(&bare).await);
            if let Ok(Some(object)) = self.fills.store.lookup(key.hash(), key.bytes()).await
                && object.generation() == confirm.object.generation()
                && let Some((_, Stored::Object(head))) = head::read(&object)
            {
                stored = head.clone();
            }
        }
        let Ok(mut headers) = httpcache::freshen(&stored.headers, &answer.head.headers) else {
            let only = store::Which::Only(confirm.object.generation());
            let _ = self.fills.store.remove(key.hash(), key.bytes(), only).await;
            return None;
        };
        keep::confirmed(&self.order.domain.functions, &stored.headers, &answer.head.headers, &mut headers);
        self.mark(confirm.head.status, &mut headers);
        let mut vouched = self.noted().confirm(confirm.vouched, answer.age);
        if made(Mistake::LiftToApplied) {
            vouched.stamp = vouched.stamp.max(self.fills.knowing.applied());
        }
        let kept = httpcache::kept(&headers, received);
        let own_head = own_head(&headers, &kept)
            .then(|| Arc::new(Head::new(self.log, confirm.head.status, headers.clone(), sent, received)));
        let head = Head::new(self.log, confirm.head.status, kept, sent, received);
        let head = Arc::new(Head { slices: stored.slices, refetch: stored.refetch, copy: stored.copy, ..head });
        let storable = self.storable(head.status, &headers, sent, received);
        let (object, done) = match storable {
            Err(reason @ NotStorable::Authorization) => {
                (confirm.object.clone(), Err(Cause::NotStorable(reason.to_string())))
            }
            _ => {
                // Its `Vary` decides where a body is stored.
                let same_place = httpcache::vary_fields(&headers) == httpcache::vary_fields(&confirm.head.headers);
                let stays = storable.is_ok() && same_place && same_tags(&self.order.domain, &headers, &head.headers);
                (self.store_confirmed(confirm, &head, vouched, stays).await?, Ok(()))
            }
        };
        drop(turn);
        let vary = self.vary(&head.headers).unwrap_or_default();
        let values = httpcache::vary_key(&vary, &self.order.headers);
        let done = watch::Sender::new(Some(done)).subscribe();
        let body = match head.slices {
            None => ArrivedBody::Stored(object),
            Some(series) => self.sliced(&head, series, None),
        };
        Some(Arrived { head, alone: storable.is_err(), own_head, vouched, body, vary, values, came, done })
    }

    /// Stores the head that a 304 made. `None` if the body is no longer the stored one, or the fetch was overtaken.
    /// Unless it `stays`, the body is removed: the 304 brought `no-store`, another `Vary` or the like, so this answer
    /// may use the body, and later ones may not.
    async fn store_confirmed(
        &self,
        confirm: &Confirmable,
        head: &Head,
        vouched: Vouched,
        stays: bool,
    ) -> Option<store::Object> {
        let (store, key) = (&self.fills.store, &self.order.key);
        let mut lifted = confirm.object.clone();
        if made(Mistake::LiftAnyBody)
            && let Ok(Some(there)) = store.lookup(key.hash(), key.bytes()).await
        {
            lifted = there;
        }
        let overtaken = self.turn_to_store(key).await;
        if *overtaken {
            return None;
        }
        let object = match store.update_head(&lifted, head.encode(), vouched.stamp.0).await {
            Ok(updated) => updated?,
            Err(error) => {
                // The body is good all the same; it will be validated again.
                tracing::warn!(error = &error as &dyn std::error::Error, "confirmed head was not stored");
                confirm.object.clone()
            }
        };
        drop(overtaken);
        if stays {
            self.remember(key, object.generation(), vouched);
        } else {
            let _ = store.remove(key.hash(), key.bytes(), store::Which::Only(object.generation())).await;
        }
        Some(object)
    }

    /// Begins to store an arriving body, after its marker if it is a variant.
    async fn open(
        &self,
        head: &Arc<Head>,
        own_head: Option<Arc<Head>>,
        answer: &Answer,
        vouched: Vouched,
        came: Came,
    ) -> Result<(Arrived, Filling, watch::Sender<Option<Result<(), Cause>>>), WriteError> {
        let mut vary = self.vary(&head.headers).unwrap_or_default();
        let mut marker = None;
        if !vary.is_empty() {
            let (generation, all) = self.mark_variants(vary, vouched.stamp).await?;
            (marker, vary) = (Some(generation), all);
        }
        let values = httpcache::vary_key(&vary, &self.order.headers);
        let key = match marker {
            Some(marker) => ObjectKey::variant(&self.order.url, marker, &values),
            None => ObjectKey::bare(&self.order.url),
        };
        let length = announced(&answer.head.headers, &answer.body);
        let fill = self.fills.store.begin_fill(key.hash(), key.bytes(), head.encode(), vouched.stamp.0, length)?;
        let (done, finished) = watch::channel(None);
        let body = ArrivedBody::Growing(fill.follow(), length);
        let arrived =
            Arrived { head: head.clone(), alone: false, own_head, vouched, body, vary, values, came, done: finished };
        Ok((arrived, Filling { key, fill, length }, done))
    }

    /// The lock to hold while something becomes visible at `place`; true if it must not.
    pub(super) async fn turn_to_store(&self, place: &ObjectKey) -> tokio::sync::MutexGuard<'_, bool> {
        self.fills.outrun(self.order, place, self.running.number).await;
        self.running.overtaken.lock().await
    }

    pub(super) fn remember(&self, key: &ObjectKey, body: store::Generation, vouched: Vouched) {
        let knowing = &self.fills.knowing;
        let lease = knowing.known().knowledge.settings.lease();
        self.fills.vouched.set(key.hash(), body, vouched.at, knowing.clock().moment(), lease);
    }
}

/// A slice that is to be stored.
struct KeptPart {
    head: Arc<Head>,
    series: Series,
    number: u64,
    /// Its head is new, too.
    begins: bool,
}

/// A 206 that brings the whole body, as the 200 that would have brought it.
fn as_whole(mut answer: Answer) -> Answer {
    let headers = &mut answer.head.headers;
    if let Some(length) = slices::whole(headers) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    headers.remove(CONTENT_RANGE);
    answer.head.status = StatusCode::OK;
    answer
}

/// Whether the request that began the fetch gets more of the head than is stored.
fn own_head(headers: &HeaderMap, kept: &HeaderMap) -> bool {
    headers.keys().any(|name| !kept.contains_key(name))
}

/// Whether the stored head names the tags that came: without them a refresh by tag would miss it.
fn same_tags(domain: &Domain, headers: &HeaderMap, kept: &HeaderMap) -> bool {
    Tags::of(headers, domain.tag_header.as_deref()) == Tags::of(kept, domain.tag_header.as_deref())
}

/// The announced length of a body.
fn announced(headers: &HeaderMap, body: &FromAbove) -> Option<u64> {
    let exact = body.size_hint().exact();
    exact.or_else(|| headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok())
}

/// Whether a status may be about the request rather than its target (RFC 9110 §15.5), so that others are answered
/// otherwise: one client's odd header must not end the sharing of fetches for all.
fn is_about_request(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
