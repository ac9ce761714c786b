//! Figures: the requests of each domain, counted for its owner minute by minute, and reported to the control plane
//! exactly once.
//!
//! A request is counted where its line of the access log is made, from the same values, and under the line's minute.
//! Each thread counts into a piece of its own, under the domain's number on this node; several times a minute the
//! pieces are emptied into a report. One report is under way at a time. One that was not answered is sent again
//! unchanged under its number, by which the control plane recognizes a report that it already has.
//!
//! # What always holds
//!
//! - Counting waits for nobody but the thread that empties the same piece, or one that shares it.
//! - A report that was not taken is kept, unless its log is replaced ([`Figures::forget`]); a node that dies loses what
//!   it has not reported.
//! - At most [`ROWS_MAX`] minutes are kept in each piece. Beyond half of that an hour is counted as its first minute;
//!   beyond all of it new minutes are dropped, and counted as dropped. URLs have a bound of their own ([`URLS_MAX`]).
//! - At most [`OUTGOING_MAX`] minutes wait outside the pieces for a report. A piece that does not fit there is left as it
//!   is, within its own bound.
//!
//! # Not here
//!
//! Which account the figures are for; what of them a user may see.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::UrlKey;
use model::figures::{self as model_figures, Class, SKETCH_URL_BYTES_MAX, Sketch, Visits};
use model::link::{self, FIGURES_ROWS_MAX, FIGURES_URLS_MAX, FiguresTaken};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::knowing::Knowing;
use crate::metrics::{Counter, Page, SHARDS, shard};

mod above;
mod sites;

pub(crate) use above::{FromAbove, Meter};
pub(crate) use sites::{Sites, Slot};

/// How often figures are reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How often URLs are reported.
const URLS_EVERY: Duration = Duration::from_secs(30);

/// How long a report may be unanswered before it is sent again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Minutes of domains that one piece keeps.
const ROWS_MAX: usize = 16_384;

/// Minutes of domains that wait for a report outside the pieces: as many as all pieces keep.
const OUTGOING_MAX: usize = SHARDS * ROWS_MAX;

/// URLs that one piece keeps before they are added to the sketches.
const STAGED_MAX: usize = 512;

/// URLs of all domains that are kept until they are reported.
const URLS_MAX: usize = 32_768;

/// Bytes of URLs in one report.
const URL_BYTES_BATCH_MAX: usize = link::MESSAGE_BYTES_MAX / 4;

/// A request of a user, or to an origin, that ended and is to be counted.
pub(crate) struct Ended<'a> {
    pub(crate) slot: Slot,
    pub(crate) url: &'a UrlKey,
    /// When it began, by the wall clock.
    pub(crate) at: SystemTime,
    /// It is a request to an origin; otherwise one of a user.
    pub(crate) origin: bool,
    /// By TLS.
    pub(crate) secure: bool,
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) bytes: u64,
    /// A store answered.
    pub(crate) hit: bool,
}

/// The figures that a node has counted and not yet reported.
pub(crate) struct Figures {
    /// Which start of the node this is.
    boot: u64,
    pieces: [Piece; SHARDS],
    urls: Mutex<Urls>,
    outgoing: Mutex<Outgoing>,
    /// Notified when the report under way was taken, or there is haste.
    woken: Notify,
    /// Everything counted is to be reported now.
    haste: AtomicBool,
    /// The control plane on this connection takes reports.
    heard: AtomicBool,
    taken: Counter,
    dropped: Counter,
    urls_dropped: Counter,
}

/// The figures that one thread counted, or a few that share the piece.
#[derive(Default)]
#[repr(align(64))]
struct Piece(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// By slot and minute.
    minutes: HashMap<u64, model_figures::Figures, Numbers>,
    /// By their hash.
    urls: HashMap<u64, Staged, Numbers>,
}

struct Staged {
    of: UrlsOf,
    class: Class,
    visits: Visits,
}

/// A domain, an hour counted from 1970, and whether it is about origins.
type UrlsOf = (Slot, u64, bool);

#[derive(Default)]
struct Urls {
    sketches: BTreeMap<UrlsOf, Sketch>,
    /// URLs in all of them.
    count: usize,
}

/// Reports on their way.
struct Outgoing {
    /// Minutes taken out of the pieces, and not in a report yet.
    minutes: BTreeMap<(Slot, u64), model_figures::Figures>,
    /// The report that was not answered yet.
    report: Option<link::Figures>,
    /// When it was sent on the current connection.
    sent: Option<Instant>,
    sequence: u64,
    due: Instant,
    urls_due: Instant,
}

/// Hashes numbers that are hashes themselves, or counters, by a multiplication: nobody would choose them to collide.
#[derive(Default)]
pub(crate) struct Mixer(u64);

pub(crate) type Numbers = BuildHasherDefault<Mixer>;

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Figures {
    /// Empty figures of a node that starts at this moment.
    pub(crate) fn new(started: SystemTime) -> Figures {
        let boot = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let now = Instant::now();
        Figures {
            boot: u64::try_from(boot).unwrap_or(u64::MAX),
            pieces: std::array::from_fn(|_| Piece::default()),
            urls: Mutex::default(),
            outgoing: Mutex::new(Outgoing {
                minutes: BTreeMap::new(),
                report: None,
                sent: None,
                sequence: 0,
                due: now + REPORT_EVERY,
                urls_due: now + URLS_EVERY,
            }),
            woken: Notify::new(),
            haste: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            taken: Counter::default(),
            dropped: Counter::default(),
            urls_dropped: Counter::default(),
        }
    }

    /// Counts a request that ended.
    pub(crate) fn count(&self, ended: &Ended<'_>) {
        let minute = ended.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        let mut counts = self.counts(shard());
        let mut key = row_key(ended.slot, minute);
        if counts.minutes.len() >= ROWS_MAX / 2 {
            key = row_key(ended.slot, minute - minute % 60);
            if counts.minutes.len() >= ROWS_MAX && !counts.minutes.contains_key(&key) {
                drop(counts);
                self.dropped.inc();
                return;
            }
        }
        let figures = counts.minutes.entry(key).or_default();
        let side = if ended.origin { &mut figures.origins } else { &mut figures.users };
        side.count(ended.secure, ended.status, ended.bytes, ended.hit);
        let Some(class) = Class::of(ended.status) else { return };
        let of: UrlsOf = (ended.slot, minute / 60, ended.origin);
        let staged = counts.urls.entry(url_hash(of, class, ended.url)).or_insert_with(|| {
            let url = format!("{}{}", ended.url.host(), ended.url.path());
            Staged { of, class, visits: Visits { url, requests: 0, bytes: 0 } }
        });
        staged.visits.requests += 1;
        staged.visits.bytes += ended.bytes;
        if counts.urls.len() >= STAGED_MAX {
            let staged = std::mem::take(&mut counts.urls);
            drop(counts);
            self.gather_urls(staged);
        }
    }

    fn counts(&self, shard: usize) -> MutexGuard<'_, Counts> {
        self.pieces[shard].0.lock().expect("no holder of this lock can panic")
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().expect("no holder of this lock can panic")
    }

    fn urls(&self) -> MutexGuard<'_, Urls> {
        self.urls.lock().expect("no holder of this lock can panic")
    }

    fn gather_urls(&self, staged: HashMap<u64, Staged, Numbers>) {
        // One sketch after the other, each in the order of its hashes: the same requests always make the same sketches.
        let mut staged: Vec<Staged> = staged.into_values().collect();
        staged.sort_by_key(|staged| (staged.of, staged.class));
        let mut urls = self.urls();
        for Staged { of, class, visits } in staged {
            if visits.url.len() > SKETCH_URL_BYTES_MAX {
                self.urls_dropped.add(visits.requests);
            } else if urls.count < URLS_MAX {
                let more = urls.sketches.entry(of).or_default().count(class, visits);
                urls.count += usize::from(more);
            } else {
                let requests = visits.requests;
                let counted = urls.sketches.get_mut(&of).is_some_and(|sketch| sketch.count_in_place(class, visits));
                if !counted {
                    self.urls_dropped.add(requests);
                }
            }
        }
    }

    /// Waits for the next report to be sent. To be called again once it was sent; a call that is dropped before has
    /// changed nothing.
    pub(crate) async fn report(&self, knowing: &Knowing) -> link::Figures {
        loop {
            let woken = self.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let until = {
                let mut outgoing = self.outgoing();
                let now = Instant::now();
                match (&outgoing.report, outgoing.sent) {
                    (Some(_), Some(sent)) if now < sent + AGAIN_AFTER => sent + AGAIN_AFTER,
                    (Some(report), _) => {
                        let report = report.clone();
                        outgoing.sent = Some(now);
                        return report;
                    }
                    (None, _) if now < outgoing.due && !self.haste.load(Ordering::SeqCst) => outgoing.due,
                    (None, _) => {
                        if let Some(report) = self.make(&mut outgoing, knowing, now) {
                            outgoing.report = Some(report.clone());
                            outgoing.sent = Some(now);
                            return report;
                        }
                        outgoing.due = now + REPORT_EVERY;
                        self.haste.store(false, Ordering::SeqCst);
                        outgoing.due
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = woken => {}
            }
        }
    }

    /// Notes a new connection, on which nothing was sent; `heard` says whether its other end takes reports.
    pub(crate) fn connected(&self, heard: bool) {
        self.outgoing().sent = None;
        self.heard.store(heard, Ordering::SeqCst);
    }

    /// Notes that there is no connection.
    pub(crate) fn disconnected(&self) {
        self.heard.store(false, Ordering::SeqCst);
    }

    /// Notes that the control plane has a report.
    pub(crate) fn take(&self, taken: FiguresTaken) {
        let mut outgoing = self.outgoing();
        if outgoing.report.as_ref().is_some_and(|report| (report.boot, report.sequence) == (taken.boot, taken.sequence))
        {
            outgoing.report = None;
            outgoing.due = if outgoing.minutes.is_empty() { Instant::now() + REPORT_EVERY } else { Instant::now() };
            self.taken.inc();
            drop(outgoing);
            self.woken.notify_one();
        }
    }

    /// Drops the report that is under way: its log was replaced, and nobody would know whose figures these are.
    pub(crate) fn forget(&self) {
        let mut outgoing = self.outgoing();
        if outgoing.report.take().is_some() {
            self.dropped.inc();
        }
    }

    /// Has everything reported that was counted, while somebody takes it, and for `most` at most.
    pub(crate) async fn flush(&self, most: Duration) {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let until = Instant::now() + most;
        while Instant::now() < until && self.heard.load(Ordering::SeqCst) && !self.is_empty() {
            self.haste.store(true, Ordering::SeqCst);
            self.woken.notify_one();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_empty(&self) -> bool {
        let empty = (0..SHARDS).all(|shard| {
            let counts = self.counts(shard);
            counts.minutes.is_empty() && counts.urls.is_empty()
        });
        let outgoing = self.outgoing();
        empty && self.urls().count == 0 && outgoing.minutes.is_empty() && outgoing.report.is_none()
    }

    /// Empties the pieces as far as there is room, and makes a report of the first minutes, by domain.
    fn make(&self, outgoing: &mut Outgoing, knowing: &Knowing, now: Instant) -> Option<link::Figures> {
        let haste = self.haste.load(Ordering::SeqCst);
        let with_urls = haste || now >= outgoing.urls_due;
        for shard in 0..SHARDS {
            let (minutes, urls) = {
                let mut counts = self.counts(shard);
                let urls = if with_urls { std::mem::take(&mut counts.urls) } else { HashMap::default() };
                let fits = outgoing.minutes.len() + counts.minutes.len() <= OUTGOING_MAX;
                let minutes = if fits { std::mem::take(&mut counts.minutes) } else { HashMap::default() };
                (minutes, urls)
            };
            for (key, figures) in minutes {
                outgoing.minutes.entry(row_of(key)).or_default().add(&figures);
            }
            self.gather_urls(urls);
        }
        let known = knowing.known();
        let mut report =
            link::Figures { boot: self.boot, sequence: outgoing.sequence + 1, minutes: Vec::new(), urls: Vec::new() };
        while report.minutes.len() < FIGURES_ROWS_MAX {
            let Some(((slot, minute), figures)) = outgoing.minutes.pop_first() else { break };
            let Some(site) = known.sites.named(slot) else {
                self.dropped.add(figures.users.all.requests + figures.origins.all.requests);
                continue;
            };
            report.minutes.push(link::MinuteFigures {
                domain: site.name.to_string(),
                revision: site.since.0,
                minute,
                users: Some((&figures.users).into()),
                origins: Some((&figures.origins).into()),
            });
        }
        if with_urls {
            let mut urls = self.urls();
            self.add_urls(&mut report, &mut urls, |slot| known.sites.named(slot).cloned());
            if urls.count == 0 {
                outgoing.urls_due = now + URLS_EVERY;
            }
        }
        if report.minutes.is_empty() && report.urls.is_empty() {
            return None;
        }
        outgoing.sequence += 1;
        Some(report)
    }

    fn add_urls(&self, report: &mut link::Figures, urls: &mut Urls, named: impl Fn(Slot) -> Option<Arc<sites::Site>>) {
        let (mut count, mut bytes) = (0, 0);
        while report.minutes.len() + report.urls.len() < FIGURES_ROWS_MAX
            && let Some(first) = urls.sketches.first_entry()
        {
            let more: usize = first.get().visits().map(|(_, visits)| visits.url.len()).sum();
            if count > 0 && (count + first.get().len() > FIGURES_URLS_MAX || bytes + more > URL_BYTES_BATCH_MAX) {
                break;
            }
            let ((slot, hour, of_origins), sketch) = first.remove_entry();
            urls.count -= sketch.len();
            (count, bytes) = (count + sketch.len(), bytes + more);
            let Some(site) = named(slot) else {
                self.urls_dropped.add(sketch.visits().map(|(_, visits)| visits.requests).sum());
                continue;
            };
            let url = |(class, visits): (Class, &Visits)| link::Url {
                class: class.digit(),
                url: visits.url.clone(),
                requests: visits.requests,
                bytes: visits.bytes,
            };
            report.urls.push(link::HourUrls {
                domain: site.name.to_string(),
                revision: site.since.0,
                hour,
                of_origins,
                urls: sketch.visits().map(url).collect(),
            });
        }
    }

    /// Shows the state of the figures themselves.
    pub(crate) fn show(&self, page: &mut Page) {
        let in_pieces: usize = (0..SHARDS).map(|shard| self.counts(shard).minutes.len()).sum();
        let (waiting, unanswered) = {
            let outgoing = self.outgoing();
            (outgoing.minutes.len(), outgoing.report.is_some())
        };
        page.counter("figures_reports_total", "Reports of figures that the control plane took", self.taken.get());
        page.gauge("figures_unanswered", "Reports of figures under way", u64::from(unanswered));
        page.gauge("figures_minutes", "Minutes of domains not reported yet", in_pieces + waiting);
        page.gauge("figures_minutes_max", "Maximum of unreported minutes of domains", OUTGOING_MAX + SHARDS * ROWS_MAX);
        page.counter("figures_dropped_total", "Requests left out of figures, for want of room", self.dropped.get());
        page.gauge("figures_urls", "URLs kept for the lists of the most requested URLs", self.urls().count);
        page.gauge("figures_urls_max", "Maximum of URLs kept for lists", URLS_MAX);
        page.counter(
            "figures_urls_dropped_total",
            "Requests left out of lists of URLs because there was no room or their URL is too long",
            self.urls_dropped.get(),
        );
    }
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Figures").field("boot", &self.boot).finish_non_exhaustive()
    }
}

/// Minutes since 1970 have room in 32 bits for eight thousand years.
fn row_key(slot: Slot, minute: u64) -> u64 {
    u64::from(slot.0) << 32 | minute & u64::from(u32::MAX)
}

fn row_of(key: u64) -> (Slot, u64) {
    (Slot((key >> 32) as u32), key & u64::from(u32::MAX))
}

fn url_hash((slot, hour, origins): UrlsOf, class: Class, url: &UrlKey) -> u64 {
    use xxhash_rust::xxh3::xxh3_64_with_seed;
    let seed = row_key(slot, hour * 16 + u64::from(class.digit()) * 2 + u64::from(origins));
    xxh3_64_with_seed(url.path().as_bytes(), xxh3_64_with_seed(url.host().as_bytes(), seed))
}

#[cfg(test)]
mod tests;
