//! The concurrency limit of one origin, inferred from its response times.
//!
//! Answers are timed to their first byte. While they come as soon as from an idle origin the limit rises; once they
//! come later it falls, before users notice (a gradient, as in TCP Vegas; a failure halves it). The reasons are in
//! docs/decisions/0022.
//!
//! # What always holds
//!
//! - The limit is 1 at least and [`LIMIT_MAX`] at most.
//! - An answer counts only under the limit that its request was sent under.
//!
//! # Not here
//!
//! Who is let in: this is only about how many. Which node measures an origin that several ask: `shares`.

use std::time::Duration;

use tokio::time::Instant;

/// The first limit of an origin, and the largest.
const LIMIT_FIRST: f64 = 4.0;
pub(super) const LIMIT_MAX: f64 = 1024.0;

/// How much later than from an idle origin answers may come, as a factor, and how many standard errors are allowed
/// beyond that, so that chance does not lower the limit: the more often answers are judged, the more.
const TOLERANCE: f64 = 1.05;
const CHANCE_RISING: f64 = 3.0;
const CHANCE_EARLY: f64 = 4.0;
const CHANCE_HOLDING: f64 = 5.0;

/// The factor for all answers since the limit stopped rising. They are many, and only they show a limit that is
/// slightly too high.
const TOLERANCE_HELD: f64 = 1.01;
const HELD_ANSWERS_MIN: u32 = 256;

/// The factor for the answers to users among them. Users feel one request above the knee first: a prefetch is sent when
/// another one was answered and finds a free place, a user's request is sent at any time and waits for one.
const TOLERANCE_USERS: f64 = 1.02;
const USERS_ANSWERS_MIN: u32 = 64;

/// The smallest share of the held limit that they may lower it to: an origin that became slower for another reason is
/// found by timing it anew.
const HELD_MIN: f64 = 0.75;

/// How many standard errors later answers may be and still tell how soon an idle origin answers.
const CHANCE_IDLE: f64 = 2.0;

/// How many standard errors of an excess are put down to chance once answers were found to be late.
const CHANCE_FOUND: f64 = 0.5;

/// The factors by which the limit rises after a span in which it was used up and answers were in time: near the ceiling
/// (from [`NEAR`] of it on), and below that. A limit that falls below [`FAR`] of the ceiling rises again at once.
const STEP_NEAR: f64 = 1.05;
const STEP_FAR: f64 = 1.15;
const NEAR: f64 = 0.8;
const FAR: f64 = 0.6;

/// The factors by which the limit falls when it was too high. Where other nodes ask too, it need not fall as far,
/// because dividing the limit into whole requests leaves some room.
const BACK: f64 = 0.92;
const BACK_OF_SEVERAL: f64 = 0.94;

/// The same where other nodes ask and the limit was too high for the first time: it rose in large steps, and their use
/// of it was known late.
const BACK_OF_SEVERAL_AT_FIRST: f64 = 0.86;

/// The least part of the limit that is taken to be under way: what is known of other nodes is slightly out of date.
const USED_MIN: f64 = 0.85;

/// Answers that are timed before the limit is looked at again; the limit itself where that is more.
const ANSWERS_MIN: u32 = 16;

/// The same while an idle origin is timed, as a multiple of the limit: little compared with how long the result holds,
/// and everything is judged by it.
const ANSWERS_IDLE: f64 = 4.0;

/// The same while the limit rises and other nodes ask too, so that fewer answers are seen here. If these already show
/// that the limit is too high, the trial must end, or users would notice it.
const ANSWERS_OF_SEVERAL_MIN: u32 = 8;

/// How long the limit is held after it was too high, before a higher one is tried again. Some users notice each trial.
const HOLD: Duration = Duration::from_secs(60);

/// The divisor of that time when the limit was too high for the first time: the idle origin was timed only during the
/// rise, whose answers were late themselves.
const HOLD_AT_FIRST: u32 = 3;

/// The same for a slow origin, as a multiple of its idle response time: a trial lasts for several of these.
const HOLD_SPANS: u32 = 600;

/// The same where prefetches may use only a part of the limit: during a trial they use all of it.
const HOLD_OF_A_PART: Duration = Duration::from_secs(600);

/// The least time between two halvings: failures that follow sooner belong to requests from before the limit fell.
const HALVED_EVERY: Duration = Duration::from_millis(500);

/// Once there are this many answers to users from an idle origin, they count half.
const USERS_IDLE_KEPT: u32 = 256;

/// The limit of one origin, and the measurements behind it.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) limit: f64,
    /// The part of it granted to other nodes, whose answers are not seen here.
    pub(super) others: f64,
    /// The part of that which they have not taken up yet, so that nobody uses it.
    pub(super) unused: f64,
    /// Whether prefetches may use only a part of the limit.
    pub(super) in_part: bool,
    /// The limit that was too high when last measured; infinite before.
    ceiling: f64,
    /// How soon an idle origin answers.
    idle: Option<Timed>,
    /// Answers to requests sent since the span began.
    span: Span,
    since: Instant,
    /// The answers to users among them, and how soon an idle origin answered users, who may ask for other objects.
    users_span: Span,
    users_idle: Span,
    /// Answers under the current limit in spans that are over, and those to users among them.
    held: Held,
    users_held: Held,
    /// The lowest limit while it is held.
    least: f64,
    /// Whether requests had to wait for room during the span.
    pub(super) wanted: bool,
    halved: Option<Instant>,
    phase: Phase,
}

/// The state of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The limit rises until answers come later.
    Rising,
    /// The limit was too high; a lower one is held until this moment.
    Holding(Instant),
    /// Half of the limit is used, to time the idle origin anew, because its response time may have changed. Earlier
    /// requests are still being answered; [`Phase::Timing`] follows.
    Emptying,
    /// Answers are timed while little is under way.
    Timing,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            limit: LIMIT_FIRST,
            others: 0.0,
            unused: 0.0,
            in_part: false,
            ceiling: f64::INFINITY,
            idle: None,
            span: Span::default(),
            since: now,
            users_span: Span::default(),
            users_idle: Span::default(),
            held: Held::of(HELD_ANSWERS_MIN),
            users_held: Held::of(USERS_ANSWERS_MIN),
            least: 1.0,
            wanted: false,
            halved: None,
            phase: Phase::Rising,
        }
    }

    /// Takes over a limit that another node measured. The idle response time differs from node to node, so it is
    /// measured first.
    pub(super) fn taken_over(limit: f64, now: Instant) -> Pace {
        let limit = limit.clamp(1.0, LIMIT_MAX);
        Pace { limit, ceiling: limit / BACK, phase: Phase::Emptying, ..Pace::new(now) }
    }

    /// No other node is known to ask.
    pub(super) fn alone(&mut self) {
        (self.others, self.unused) = (0.0, 0.0);
    }

    /// How much of the limit this node may use.
    pub(super) fn own(&self) -> f64 {
        let own = self.limit.floor() - self.others;
        match self.phase {
            Phase::Rising | Phase::Holding(_) => own,
            // Other nodes' use stays as it is: below the limit an origin is no slower than an idle one.
            Phase::Emptying | Phase::Timing => (own / 2.0).max(1.0),
        }
    }

    /// Whether the limit was found, and no higher one is being tried just now.
    pub(super) fn is_settled(&self) -> bool {
        self.phase != Phase::Rising
    }

    /// Records an answer, to a user or not, to a request sent at `began`.
    pub(super) fn answered(&mut self, began: Instant, now: Instant, to_user: bool) {
        if began < self.since {
            return; // sent under another limit
        }
        let seconds = (now - began).as_secs_f64();
        self.span.add(seconds);
        if to_user {
            self.users_span.add(seconds);
        }
        let early = self.others > 0.0 && self.phase == Phase::Rising && self.span.answers >= ANSWERS_OF_SEVERAL_MIN;
        // A held limit is judged over many spans: chance must not lower it a little each time.
        let chance = if matches!(self.phase, Phase::Holding(_)) { CHANCE_HOLDING } else { CHANCE_RISING };
        let times = if self.phase == Phase::Timing { ANSWERS_IDLE } else { 1.0 };
        if self.span.answers >= ANSWERS_MIN.max((self.limit * times) as u32) {
            self.turn(self.is_late(chance), now);
        } else if early && self.is_late(CHANCE_EARLY) {
            self.turn(true, now);
        }
    }

    pub(super) fn failed(&mut self, now: Instant) {
        if self.halved.is_some_and(|halved| now - halved < HALVED_EVERY) {
            return;
        }
        self.halved = Some(now);
        self.ceiling = self.limit;
        self.limit = (self.limit / 2.0).max(1.0);
        self.phase = Phase::Holding(now + HALVED_EVERY);
        self.begin_held();
        self.begin_span(now);
    }

    fn begin_span(&mut self, now: Instant) {
        (self.span, self.users_span) = (Span::default(), Span::default());
        (self.since, self.wanted) = (now, false);
    }

    /// Whether the answers of the span came later than from an idle origin.
    fn is_late(&self, chance: f64) -> bool {
        self.idle.is_some_and(|idle| self.span.timed().is_later_than(idle.mean * TOLERANCE, &idle, chance))
    }

    /// Lowers a held limit when all answers under it, or those to users alone, show that it is slightly too high.
    fn look_back(&mut self) {
        let all = self.idle.and_then(|idle| self.held.is_later(&self.span, &idle, TOLERANCE_HELD));
        let idle = self.users_idle.timed();
        let known = self.users_idle.answers >= ANSWERS_MIN;
        let users = self.users_held.is_later(&self.users_span, &idle, TOLERANCE_USERS).filter(|_| known);
        let Some(times) = [all, users].into_iter().flatten().reduce(f64::max) else { return };
        self.limit = (self.limit / times).min(self.limit - 1.0).max(self.least);
        self.forget_held();
    }

    /// Updates the idle response time from the span.
    fn learn_idle(&mut self) {
        let timed = self.span.timed();
        self.idle = Some(self.idle.map_or(timed, |idle| idle.with(&timed)));
        if self.users_idle.answers >= USERS_IDLE_KEPT {
            self.users_idle.halve();
        }
        self.users_idle.add_all(&self.users_span);
    }

    /// Begins to hold the limit.
    fn begin_held(&mut self) {
        self.least = (self.limit * HELD_MIN).max(1.0);
        self.forget_held();
    }

    /// Starts counting answers anew, under a changed limit.
    fn forget_held(&mut self) {
        (self.held, self.users_held) = (Held::of(HELD_ANSWERS_MIN), Held::of(USERS_ANSWERS_MIN));
    }

    /// Ends the span.
    fn turn(&mut self, late: bool, now: Instant) {
        let timed = self.span.timed();
        self.phase = match self.phase {
            Phase::Rising | Phase::Holding(_) if late => {
                // The requests an origin works on when it is not slowed down (Little's law), and some room.
                let idle = self.idle.map_or(timed.mean, |idle| idle.mean);
                let hold = if self.in_part { HOLD_OF_A_PART } else { HOLD };
                // Until other nodes hear of their shares, less than the limit is under way, and it was that smaller
                // number that was too high. How many have heard since is unknown; half of them is assumed.
                let used = if self.phase == Phase::Rising { self.limit - self.unused / 2.0 } else { self.limit };
                let is_first = self.ceiling.is_infinite();
                self.ceiling = used.max(self.limit * USED_MIN);
                let back = match (self.others > 0.0, is_first) {
                    (false, _) => BACK,
                    (true, false) => BACK_OF_SEVERAL,
                    (true, true) => BACK_OF_SEVERAL_AT_FIRST,
                };
                self.limit = (self.ceiling * back * (idle / timed.without_chance()).clamp(0.5, 1.0)).max(1.0);
                let hold = hold.max(Duration::from_secs_f64(idle).saturating_mul(HOLD_SPANS));
                let hold = if is_first { hold / HOLD_AT_FIRST } else { hold };
                self.begin_held();
                // A limit that was far too high, as after a stall, tells little about the right one.
                if self.limit < self.ceiling * FAR { Phase::Rising } else { Phase::Holding(now + hold) }
            }
            Phase::Rising => {
                // Answers that are late, but not late enough to lower the limit, must not become the idle response
                // time.
                let is_idle = self.idle.is_none_or(|idle| !timed.is_later_than(idle.mean, &idle, CHANCE_IDLE));
                if self.ceiling.is_infinite() && is_idle {
                    self.learn_idle();
                }
                if self.wanted {
                    let step = if self.limit < self.ceiling * NEAR { STEP_FAR } else { STEP_NEAR };
                    self.limit = (self.limit * step).max(self.limit + 0.5).min(LIMIT_MAX);
                }
                Phase::Rising
            }
            Phase::Holding(until) if now < until || !self.wanted => {
                // Answers that are late although there was room are late for another reason.
                if self.wanted {
                    self.look_back();
                }
                Phase::Holding(until)
            }
            Phase::Holding(_) => Phase::Emptying,
            Phase::Emptying => Phase::Timing,
            Phase::Timing => {
                self.learn_idle();
                Phase::Rising
            }
        };
        self.begin_span(now);
    }
}

/// Timed answers: how many, the sum of their seconds, and the sum of the squares.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    answers: u32,
    sum: f64,
    squares: f64,
}

impl Span {
    fn add(&mut self, seconds: f64) {
        self.answers += 1;
        self.sum += seconds;
        self.squares += seconds * seconds;
    }

    fn add_all(&mut self, other: &Span) {
        self.answers += other.answers;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    fn halve(&mut self) {
        self.answers /= 2;
        self.sum /= 2.0;
        self.squares /= 2.0;
    }

    fn timed(&self) -> Timed {
        let answers = f64::from(self.answers.max(1));
        let mean = self.sum / answers;
        let variance = (self.squares / answers - mean * mean).max(0.0);
        Timed { mean, error: variance / answers }
    }
}

/// Answers under the current limit.
#[derive(Clone, Copy, Debug)]
struct Held {
    span: Span,
    /// How many answers are needed for the next look.
    next: u32,
}

impl Held {
    fn of(answers: u32) -> Held {
        Held { span: Span::default(), next: answers }
    }

    /// How many times later they are than from an idle origin, where that is more than tolerated and not chance. They
    /// are judged each time their number has doubled, because every look gives chance another try.
    fn is_later(&mut self, span: &Span, idle: &Timed, tolerance: f64) -> Option<f64> {
        self.span.add_all(span);
        if self.span.answers < self.next {
            return None;
        }
        self.next = self.span.answers.saturating_mul(2);
        let timed = self.span.timed();
        timed.is_later_than(idle.mean * tolerance, idle, CHANCE_HOLDING).then(|| timed.mean / idle.mean)
    }
}

/// A response time: the mean in seconds, and the square of its standard error.
#[derive(Clone, Copy, Debug)]
struct Timed {
    mean: f64,
    error: f64,
}

impl Timed {
    /// Whether it is later than `mean` by more than the errors of both explain.
    fn is_later_than(&self, mean: f64, other: &Timed, chance: f64) -> bool {
        self.mean > mean + chance * (self.error + other.error).sqrt()
    }

    /// The mean less some chance: answers that are watched until they are late are found later than they are.
    fn without_chance(&self) -> f64 {
        self.mean - CHANCE_FOUND * self.error.sqrt()
    }

    /// The average of both.
    fn with(&self, other: &Timed) -> Timed {
        Timed { mean: (self.mean + other.mean) / 2.0, error: (self.error + other.error) / 4.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in this many answers goes to a user.
    const USERS: u32 = 6;

    /// Feeds answers of an origin that takes 50 ms ± 10% for each of up to 32 requests at a time, and longer for more;
    /// returns how many there were until `done`. While the limit is `late` or more, users wait 10% longer.
    fn answers_of(
        pace: &mut Pace,
        now: &mut Instant,
        late: f64,
        seen: impl Fn(&Pace) -> f64,
        done: impl Fn(&Pace) -> bool,
    ) -> u32 {
        let mut seed = 1_u64;
        for count in 0..100_000 {
            if done(pace) {
                return count;
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = (seed >> 33) as f64 / f64::from(1_u32 << 31);
            let takes = 0.05 * (0.9 + 0.2 * chance) * (seen(pace) / 32.0).max(1.0);
            let to_user = count % USERS == 0;
            let takes = if to_user && pace.own() >= late { takes * 1.1 } else { takes };
            // The limit is always used up, so answers follow each other that much faster than each of them takes.
            *now += Duration::from_secs_f64(takes / pace.own().max(1.0));
            pace.wanted = true;
            pace.answered(*now - Duration::from_secs_f64(takes), *now, to_user);
        }
        panic!("{pace:?}");
    }

    /// The same, where users wait no longer than prefetches.
    fn answers(pace: &mut Pace, now: &mut Instant, seen: impl Fn(&Pace) -> f64, done: impl Fn(&Pace) -> bool) -> u32 {
        answers_of(pace, now, f64::INFINITY, seen, done)
    }

    #[tokio::test(start_paused = true)]
    async fn limit_that_stays_a_little_above_the_knee_is_noticed_and_lowered() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let is_held = |pace: &Pace| matches!(pace.phase, Phase::Holding(_));
        // Requests of other nodes reach the origin some time after they got their shares; meanwhile the limit rises too
        // far.
        answers(&mut pace, &mut now, |pace| if pace.limit < 40.0 { 0.0 } else { 37.0 }, is_held);
        assert!(pace.limit > 34.0, "{pace:?}");
        let until = pace.phase;
        let took = answers(&mut pace, &mut now, Pace::own, |pace| pace.limit < 34.0);
        assert!(took < 5_000 && pace.phase == until, "{took}: {pace:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn limit_below_the_knee_stays_until_it_is_tried_again() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        answers(&mut pace, &mut now, Pace::own, |pace| matches!(pace.phase, Phase::Holding(_)));
        let (limit, until) = (pace.limit, pace.phase);
        assert!(limit < 32.0, "{pace:?}");
        assert!(answers(&mut pace, &mut now, Pace::own, |pace| pace.phase != until) > 10_000);
        assert_eq!(pace.limit, limit);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_that_only_users_notice_is_lowered_until_they_do_not() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let is_held = |pace: &Pace| matches!(pace.phase, Phase::Holding(_));
        answers(&mut pace, &mut now, Pace::own, is_held);
        let (limit, until) = (pace.limit.floor(), pace.phase);
        // Taken together the answers are later by less than two percent, which chance may explain.
        let lowered = |pace: &Pace| pace.limit < limit;
        let took = answers_of(&mut pace, &mut now, limit, Pace::own, lowered);
        assert!(took < 10_000 && pace.phase == until, "{took}: {pace:?}");
        let lowered = pace.limit;
        answers_of(&mut pace, &mut now, limit, Pace::own, |pace| pace.phase != until);
        assert_eq!(pace.limit, lowered);
    }
}
