//! How much one origin bears, felt by how soon it answers.
//!
//! Answers are timed to their first byte. While they come as soon as they do from an idle origin the limit rises, and once they come
//! later it falls, before users notice (a gradient, as in TCP Vegas; a failure halves it). docs/decisions/0022 says why so.
//!
//! # What always holds
//!
//! - The limit is 1 at least and [`LIMIT_MAX`] at most.
//! - An answer counts only under the limit that it was asked under.
//!
//! # Not here
//!
//! Who is let in: the limit says only how many. Which node feels an origin that several ask: `shares`.

use std::time::Duration;

use tokio::time::Instant;

/// Requests at a time that an origin is begun with, and the most that it can come to.
const LIMIT_FIRST: f64 = 4.0;
pub(super) const LIMIT_MAX: f64 = 1024.0;

/// How much later than from an idle origin answers may come, and by how many standard errors more, so that chance lowers no limit: the
/// more often one looks, the more of them.
const TOLERANCE: f64 = 1.05;
const CHANCE_RISING: f64 = 3.0;
const CHANCE_EARLY: f64 = 4.0;
const CHANCE_HOLDING: f64 = 5.0;

/// The same for all answers since the limit began to stay, which are many: a limit that is a little too much is felt by them alone.
const TOLERANCE_HELD: f64 = 1.01;
const HELD_ANSWERS_MIN: u32 = 256;

/// The same for those of users among them. One request above the knee is felt by them first: a prefetch asks when another was answered and
/// finds a place, a user asks when he does and waits for one.
const TOLERANCE_USERS: f64 = 1.02;
const USERS_ANSWERS_MIN: u32 = 64;

/// What the limit falls to by them at least, of what it was when it began to stay: what became slower for another reason is found by timing
/// it anew.
const HELD_MIN: f64 = 0.75;

/// By how many standard errors answers may come later and still say how soon an idle origin answers.
const CHANCE_IDLE: f64 = 2.0;

/// By how many standard errors answers that were found to be later are believed to be so by chance.
const CHANCE_FOUND: f64 = 0.5;

/// What the limit rises by after a span in which it was used up and answers came in time: near what was too much, and far from it.
const STEP_NEAR: f64 = 1.05;
const STEP_FAR: f64 = 1.15;
const NEAR: f64 = 0.8;
const FAR: f64 = 0.6;

/// What the limit falls to when it was too much; where others ask as well a little less room is enough, for what is divided in whole
/// requests leaves some.
const BACK: f64 = 0.92;
const BACK_OF_SEVERAL: f64 = 0.94;

/// The same where others ask as well and it was too much for the first time: it rose by great steps, and what they use of it was known late.
const BACK_OF_SEVERAL_AT_FIRST: f64 = 0.86;

/// The least of the limit that is believed to be under way: what is known of others is a moment old.
const USED_MIN: f64 = 0.85;

/// Answers that are timed before the limit is looked at again, or as many as the limit where that is more.
const ANSWERS_MIN: u32 = 16;

/// The same, in times the limit, while it is found out how soon an idle origin answers: that is little beside how long it holds, and all is
/// judged by it.
const ANSWERS_IDLE: f64 = 4.0;

/// The same while the limit rises where others ask as well, and so fewer answers are seen here: if they already say that it was too
/// much, it must not last longer, or users would notice what is tried.
const ANSWERS_OF_SEVERAL_MIN: u32 = 8;

/// How long the limit stays after it was too much, until it is tried whether it still would be. Some users notice each try.
const HOLD: Duration = Duration::from_secs(60);

/// By what that is divided when it was too much for the first time: an idle origin is known only from the rise then, which was late itself.
const HOLD_AT_FIRST: u32 = 3;

/// The same for an origin that takes its time, in times that it takes when it is idle: what is tried lasts for some of these.
const HOLD_SPANS: u32 = 600;

/// The same where prefetches may use only a part of the limit: while it is tried they use all of it.
const HOLD_OF_A_PART: Duration = Duration::from_secs(600);

/// A failure lowers the limit once in this time: those that follow were asked before it fell.
const HALVED_EVERY: Duration = Duration::from_millis(500);

/// Answers to users from an idle origin of which as many as there are now count no more than half.
const USERS_IDLE_KEPT: u32 = 256;

/// The limit of one origin, and what it is felt by.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) limit: f64,
    /// What of it is left to other nodes, whose answers are not seen here.
    pub(super) others: f64,
    /// What of that they do not have yet: nobody asks for it.
    pub(super) unused: f64,
    /// Whether prefetches may use only a part of it.
    pub(super) in_part: bool,
    /// What was too much when it was last felt; infinite before.
    ceiling: f64,
    /// How soon an idle origin answers.
    idle: Option<Timed>,
    /// Answers to what was asked since the span began.
    span: Span,
    since: Instant,
    /// Of these those to users, and how soon an idle origin answered them: they may ask for other things.
    users_span: Span,
    users_idle: Span,
    /// Answers since the limit is what it is, of spans that are over, and those to users.
    held: Held,
    users_held: Held,
    /// What the limit falls to at least while it stays.
    least: f64,
    /// Whether there was less room than was wanted in the span.
    pub(super) wanted: bool,
    halved: Option<Instant>,
    phase: Phase,
}

/// What becomes of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// It rises until answers come later.
    Rising,
    /// It was too much: a little less until this moment.
    Holding(Instant),
    /// Half of it is used to find out anew how soon an idle origin answers, for what this was may not be any more. What was asked before
    /// is still answered; then it is this again.
    Emptying,
    /// Answers are timed with little under way.
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

    /// Goes on with a limit that another node felt. How soon an idle origin answers is another matter from here: that is found out first.
    pub(super) fn taken_over(limit: f64, now: Instant) -> Pace {
        let limit = limit.clamp(1.0, LIMIT_MAX);
        Pace { limit, ceiling: limit / BACK, phase: Phase::Emptying, ..Pace::new(now) }
    }

    /// Nobody else is known to ask.
    pub(super) fn alone(&mut self) {
        (self.others, self.unused) = (0.0, 0.0);
    }

    /// How much of the limit this node may use.
    pub(super) fn own(&self) -> f64 {
        let own = self.limit.floor() - self.others;
        match self.phase {
            Phase::Rising | Phase::Holding(_) => own,
            // What others use meanwhile stays: below the limit an origin is no slower than an idle one.
            Phase::Emptying | Phase::Timing => (own / 2.0).max(1.0),
        }
    }

    /// Whether it was found out how much is too much, and it is not being tried again just now.
    pub(super) fn is_settled(&self) -> bool {
        self.phase != Phase::Rising
    }

    /// An answer, to a user or not, to what was asked when it `began`.
    pub(super) fn answered(&mut self, began: Instant, now: Instant, to_user: bool) {
        if began < self.since {
            return; // asked under another limit
        }
        let seconds = (now - began).as_secs_f64();
        self.span.add(seconds);
        if to_user {
            self.users_span.add(seconds);
        }
        let early = self.others > 0.0 && self.phase == Phase::Rising && self.span.answers >= ANSWERS_OF_SEVERAL_MIN;
        // Where the limit stays, many spans are looked at: chance must not lower it a little each time.
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

    /// Lowers a limit that stays when all answers under it say that it is still a little too much, or those to users alone.
    fn look_back(&mut self) {
        let all = self.idle.and_then(|idle| self.held.is_later(&self.span, &idle, TOLERANCE_HELD));
        let idle = self.users_idle.timed();
        let known = self.users_idle.answers >= ANSWERS_MIN;
        let users = self.users_held.is_later(&self.users_span, &idle, TOLERANCE_USERS).filter(|_| known);
        let Some(times) = [all, users].into_iter().flatten().reduce(f64::max) else { return };
        self.limit = (self.limit / times).min(self.limit - 1.0).max(self.least);
        self.forget_held();
    }

    /// What the span says of how soon an idle origin answers.
    fn learn_idle(&mut self) {
        let timed = self.span.timed();
        self.idle = Some(self.idle.map_or(timed, |idle| idle.with(&timed)));
        if self.users_idle.answers >= USERS_IDLE_KEPT {
            self.users_idle.halve();
        }
        self.users_idle.add_all(&self.users_span);
    }

    /// The limit begins to stay.
    fn begin_held(&mut self) {
        self.least = (self.limit * HELD_MIN).max(1.0);
        self.forget_held();
    }

    /// The limit is another from now on.
    fn forget_held(&mut self) {
        (self.held, self.users_held) = (Held::of(HELD_ANSWERS_MIN), Held::of(USERS_ANSWERS_MIN));
    }

    /// The span is over.
    fn turn(&mut self, late: bool, now: Instant) {
        let timed = self.span.timed();
        self.phase = match self.phase {
            Phase::Rising | Phase::Holding(_) if late => {
                // What it works on at a time when it is no slower for it (Little's law), and some room.
                let idle = self.idle.map_or(timed.mean, |idle| idle.mean);
                let hold = if self.in_part { HOLD_OF_A_PART } else { HOLD };
                // While others have yet to hear of their parts less is under way than the limit, and it was less that was too much. How
                // many of them have heard since is not known: half of them.
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
                // What was far too much, as after a stall, says little of how much is not.
                if self.limit < self.ceiling * FAR { Phase::Rising } else { Phase::Holding(now + hold) }
            }
            Phase::Rising => {
                // What is a little later, and not by enough to be too much, must not become what is not late at all.
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
                // What is late though there was room is so for another reason.
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

/// Answers that were timed: how many, and the sums of their seconds and of the squares of these.
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

/// Answers since the limit is what it is.
#[derive(Clone, Copy, Debug)]
struct Held {
    span: Span,
    /// How many there are to be before they are looked at.
    next: u32,
}

impl Held {
    fn of(answers: u32) -> Held {
        Held { span: Span::default(), next: answers }
    }

    /// By how much they come later than from an idle origin, where that is more than tolerated and no chance. They are looked at when
    /// they have doubled: chance has a say each time.
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

/// How soon answers come: their mean in seconds, and how far that may be off (the square of its standard error).
#[derive(Clone, Copy, Debug)]
struct Timed {
    mean: f64,
    error: f64,
}

impl Timed {
    /// Later than `mean`, by more than chance explains in this one and in the other.
    fn is_later_than(&self, mean: f64, other: &Timed, chance: f64) -> bool {
        self.mean > mean + chance * (self.error + other.error).sqrt()
    }

    /// The mean, and a little less for chance: what is looked at until it is late is found to be later than it is.
    fn without_chance(&self) -> f64 {
        self.mean - CHANCE_FOUND * self.error.sqrt()
    }

    /// What both say together.
    fn with(&self, other: &Timed) -> Timed {
        Timed { mean: (self.mean + other.mean) / 2.0, error: (self.error + other.error) / 4.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every so many answers is one to a user.
    const USERS: u32 = 6;

    /// Answers of an origin that takes 50 ms, give or take a tenth, for each of 32 at a time, and longer for more; how many there were until
    /// `done`. From `late` on users wait longer by a tenth.
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
            // As many are under way as may be, and so they come that much sooner after each other than they take.
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
        // What is asked for by others comes to the origin a while after it was left to them: the limit rises too far meanwhile.
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
        // All together they are later by less than two percent, which is not more than chance explains.
        let lowered = |pace: &Pace| pace.limit < limit;
        let took = answers_of(&mut pace, &mut now, limit, Pace::own, lowered);
        assert!(took < 10_000 && pace.phase == until, "{took}: {pace:?}");
        let lowered = pace.limit;
        answers_of(&mut pace, &mut now, limit, Pace::own, |pace| pace.phase != until);
        assert_eq!(pace.limit, lowered);
    }
}
