//! How busy and how harmful each source is: rates, offences, bans.
//!
//! A datagram costs one look here, on whatever shard it arrives, so there is no lock: a fixed table of
//! atomics, found by a keyed hash. A place whose source has been quiet is taken over by the next one. Bans
//! are rare; they also stand in a list with names, for the operator.
//!
//! A place also says whether its source has proved who it is ([`Standing`]): that decides who is let in when
//! there is more to do than can be done.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::network::Network;
use super::rate::Rate;
use super::shared::SharedBucket;
use super::source::{Source, Way};
use crate::clock::Instant;

/// Places that a source may take: the first free one of so many next to each other.
const WAYS: usize = 8;
/// A ban lasts at most this many times the first one.
const LONGEST: u32 = 64;
/// Bans remembered at once, past ones included.
const MOST_BANS: usize = 4_096;
/// A proof counts for so long; a device registers anew long before.
const PROOF_LASTS: Duration = Duration::from_secs(2 * 3_600);
/// Challenges that a source may leave unanswered at once, and one more each second. A proof forgives all.
const UNANSWERED: u32 = 100;

/// What is allowed to each source.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks that are never limited nor banned.
    pub trusted: Vec<Network>,
    /// Messages a second; 0 is no limit. Twice as many at once.
    pub messages: u32,
    /// Answers a second to requests over datagrams that nobody has proved; 0 is no limit.
    pub answers: u32,
    /// Points of offences a minute, as many at once; 0 bans nobody.
    pub offences: u32,
    /// The first ban; each further one is twice as long.
    pub ban: Duration,
    /// Places in the table.
    pub places: usize,
}

/// What a source does that honest ones do not, or not often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Octets that are no message.
    Malformed,
    /// A wrong password.
    FailedLogin,
    /// An MSRP session that does not exist.
    UnknownSession,
}

impl Offence {
    const fn points(self) -> u32 {
        match self {
            Self::Malformed => 1,
            Self::FailedLogin => 2,
            Self::UnknownSession => 5,
        }
    }
}

/// What is known of who sends from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The configuration trusts it.
    Trusted,
    /// Credentials that came from it were right.
    Proven,
    /// Nothing.
    Unknown,
    /// It was challenged often and did not answer.
    Silent,
}

/// What may become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is worked on.
    Pass(Standing),
    /// There were too many; the next one passes after this time.
    Wait(Duration),
    /// Its source is banned.
    Banned,
}

/// A ban as the operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub source: Source,
    /// By which way.
    pub way: Way,
    /// Until when.
    pub until: Instant,
    /// How often it was banned, this time included.
    pub times: u32,
}

impl Ban {
    /// One line for the log.
    pub fn tell(&self, now: Instant) {
        let seconds = self.until.since(now).as_secs();
        let (source, way) = (self.source, self.way.name());
        tracing::warn!(%source, way, seconds, times = self.times, "banned");
    }
}

/// See the module.
pub struct Sources {
    settings: Settings,
    messages: Option<Rate>,
    answers: Option<Rate>,
    offences: Option<Rate>,
    challenges: Rate,
    places: Box<[Place]>,
    /// That of all who have none of their own and find only such as are not to be shared.
    overflow: Place,
    hasher: foldhash::quality::RandomState,
    bans: Mutex<BTreeMap<(Source, Way), Ban>>,
}

/// One source's place.
#[derive(Debug, Default)]
struct Place {
    /// The hash of the source it belongs to; 0 is nobody's.
    owner: AtomicU64,
    messages: SharedBucket,
    answers: SharedBucket,
    offences: SharedBucket,
    challenges: SharedBucket,
    /// In microseconds; see [`Instant`].
    banned_until: AtomicU64,
    /// When the last proof came: in microseconds, 0 is never.
    proved_at: AtomicU64,
}

impl Place {
    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.load(Ordering::Relaxed) > now.as_micros()
    }

    fn has_proof(&self, now: Instant) -> bool {
        let at = self.proved_at.load(Ordering::Relaxed);
        at > 0 && now.since(Instant::from_micros(at)) < PROOF_LASTS
    }

    fn standing(&self, challenges: Rate, now: Instant) -> Standing {
        if self.has_proof(now) {
            Standing::Proven
        } else if self.challenges.try_take(challenges, 1, now).is_err() {
            Standing::Silent
        } else {
            Standing::Unknown
        }
    }

    fn prove(&self, now: Instant) {
        // Zero is never.
        let micros = now.as_micros().max(1);
        self.proved_at.store(micros, Ordering::Relaxed);
        self.challenges.refill();
    }

    fn forget_proof(&self) {
        self.proved_at.store(0, Ordering::Relaxed);
        self.challenges.refill();
    }

    /// Nothing of its former owner is left.
    fn give_to(&self, owner: u64) {
        self.owner.store(owner, Ordering::Relaxed);
        self.forget_proof();
        self.messages.refill();
        self.answers.refill();
        self.offences.refill();
        self.banned_until.store(0, Ordering::Relaxed);
    }

    /// Whether it says as much as an unused one.
    fn is_idle(&self, now: Instant) -> bool {
        !self.is_banned(now)
            && !self.has_proof(now)
            && self.challenges.is_full(now)
            && self.messages.is_full(now)
            && self.answers.is_full(now)
            && self.offences.is_full(now)
    }
}

impl Sources {
    /// Nobody has done anything yet.
    pub fn new(settings: Settings) -> Self {
        let sets = settings.places.div_ceil(WAYS).max(1).next_power_of_two();
        let per_second = |rate: u32| (rate > 0).then(|| Rate::new(rate, rate.saturating_mul(2)));
        let minute = Duration::from_secs(60);
        Self {
            messages: per_second(settings.messages),
            answers: per_second(settings.answers),
            offences: (settings.offences > 0)
                .then(|| Rate::over(settings.offences, minute, settings.offences)),
            challenges: Rate::new(1, UNANSWERED),
            places: (0..sets * WAYS).map(|_| Place::default()).collect(),
            overflow: Place::default(),
            hasher: foldhash::quality::RandomState::default(),
            bans: Mutex::default(),
            settings,
        }
    }

    /// A table that limits nobody.
    pub fn without_limits() -> Self {
        Self::new(Settings {
            trusted: Vec::new(),
            messages: 0,
            answers: 0,
            offences: 0,
            ban: Duration::ZERO,
            places: 1,
        })
    }

    /// Whether nothing here holds for an address.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        (self.settings.trusted.iter()).any(|network| network.contains(address))
    }

    /// A message came, or a connection was opened.
    pub fn message(&self, address: IpAddr, way: Way, now: Instant) -> Judgement {
        if self.is_trusted(address) {
            return Judgement::Pass(Standing::Trusted);
        }
        let (place, is_own) = self.find(Source::of(address), way, now);
        if place.is_banned(now) {
            return Judgement::Banned;
        }
        let taken = self.messages.map(|rate| place.messages.take(rate, 1, now));
        match taken {
            Some(Err(wait)) => Judgement::Wait(wait),
            _ if is_own => Judgement::Pass(place.standing(self.challenges, now)),
            _ => Judgement::Pass(Standing::Unknown),
        }
    }

    /// What is known of an address.
    pub fn standing(&self, address: IpAddr, way: Way, now: Instant) -> Standing {
        if self.is_trusted(address) {
            return Standing::Trusted;
        }
        match self.find(Source::of(address), way, now) {
            (place, true) => place.standing(self.challenges, now),
            _ => Standing::Unknown,
        }
    }

    /// Credentials that came from an address were right.
    pub fn prove(&self, address: IpAddr, way: Way, now: Instant) {
        if self.is_trusted(address) {
            return;
        }
        let source = Source::of(address);
        if let Some(place) = self.own_place(source, way, now) {
            place.prove(now);
        }
    }

    /// A challenge goes to an address.
    pub fn challenge(&self, address: IpAddr, way: Way, now: Instant) {
        if !self.is_trusted(address) {
            let place = self.place(Source::of(address), way, now);
            // Who has used them up owes no more than that.
            let _ = place.challenges.take(self.challenges, 1, now);
        }
    }

    /// Whether one more answer may go to an address that only a datagram has named.
    pub fn may_answer(&self, address: IpAddr, now: Instant) -> bool {
        let Some(rate) = self.answers else {
            return true;
        };
        if self.is_trusted(address) {
            return true;
        }
        let place = self.place(Source::of(address), Way::Datagrams, now);
        place.answers.take(rate, 1, now).is_ok()
    }

    /// A source has done harm; the ban that follows, if one does.
    pub fn offend(&self, address: IpAddr, way: Way, offence: Offence, now: Instant) -> Option<Ban> {
        let rate = self.offences?;
        if self.is_trusted(address) {
            return None;
        }
        let source = Source::of(address);
        let (place, is_own) = self.find(source, way, now);
        let full = place.offences.take(rate, offence.points(), now).is_err();
        // Whoever shares a place with others is not banned, or they would be.
        if !full || !is_own || place.is_banned(now) {
            return None;
        }
        let ban = self.ban(source, way, now)?;
        let until = ban.until.as_micros();
        place.banned_until.store(until, Ordering::Relaxed);
        place.offences.refill();
        Some(ban)
    }

    /// Whether an address is banned.
    pub fn is_banned(&self, address: IpAddr, way: Way, now: Instant) -> bool {
        !self.is_trusted(address) && self.place(Source::of(address), way, now).is_banned(now)
    }

    /// The bans that hold, by source.
    pub fn bans(&self, now: Instant) -> Vec<Ban> {
        let bans = self.list();
        let live = bans.values().filter(|ban| ban.until > now);
        live.copied().collect()
    }

    /// Takes the bans of a source back; how many held.
    pub fn pardon(&self, address: IpAddr, now: Instant) -> usize {
        let source = Source::of(address);
        let mut held = 0;
        for way in [Way::Datagrams, Way::Connections] {
            let ban = self.list().remove(&(source, way));
            held += usize::from(ban.is_some_and(|ban| ban.until > now));
            let place = self.place(source, way, now);
            place.banned_until.store(0, Ordering::Relaxed);
            place.offences.refill();
        }
        held
    }

    /// Enters a ban into the list; `None` where the list is full of bans that hold.
    fn ban(&self, source: Source, way: Way, now: Instant) -> Option<Ban> {
        let mut bans = self.list();
        let before = bans.get(&(source, way)).map_or(0, |ban| ban.times);
        if before == 0 && bans.len() >= MOST_BANS {
            bans.retain(|_, ban| ban.until > now);
            if bans.len() >= MOST_BANS {
                return None;
            }
        }
        // Who has kept quiet for the longest ban begins anew.
        let longest = self.settings.ban.saturating_mul(LONGEST);
        let last = bans.get(&(source, way)).map_or(now, |ban| ban.until);
        let times = if now.since(last) > longest {
            1
        } else {
            before + 1
        };
        let factor = 1_u32.checked_shl(times - 1).unwrap_or(LONGEST);
        let ban = Ban {
            source,
            way,
            until: now + self.settings.ban.saturating_mul(factor.min(LONGEST)),
            times,
        };
        bans.insert((source, way), ban);
        Some(ban)
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<(Source, Way), Ban>> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a source: its own, one that nobody needs, or that of the busiest beside it that has proved
    /// nothing, if there is one.
    fn place(&self, source: Source, way: Way, now: Instant) -> &Place {
        self.find(source, way, now).0
    }

    /// As [`Self::place`], and whether it is its own.
    fn find(&self, source: Source, way: Way, now: Instant) -> (&Place, bool) {
        let (owner, set) = self.set_of(source, way);
        match take_in(set, owner, now) {
            Some(place) => (place, true),
            None => (busiest_in(set, now).unwrap_or(&self.overflow), false),
        }
    }

    /// The place of a source that has proved who it is: if nothing else is left, the busiest that has not
    /// gives way, with all that was known of its owner. `None` where all have.
    fn own_place(&self, source: Source, way: Way, now: Instant) -> Option<&Place> {
        let (owner, set) = self.set_of(source, way);
        take_in(set, owner, now).or_else(|| {
            let place = busiest_in(set, now)?;
            place.give_to(owner);
            Some(place)
        })
    }

    /// What marks a place as this source's, and the places it may have.
    fn set_of(&self, source: Source, way: Way) -> (u64, &[Place]) {
        let hash = self.hasher.hash_one((source, way));
        let sets = self.places.len() / WAYS;
        let first = (hash as usize & (sets - 1)) * WAYS;
        (hash | 1, &self.places[first..first + WAYS])
    }
}

/// The place of its own that a source has or can have.
fn take_in(set: &[Place], owner: u64, now: Instant) -> Option<&Place> {
    let order = Ordering::Relaxed;
    let known = |place: &&Place| place.owner.load(order) == owner;
    if let Some(place) = set.iter().find(known) {
        return Some(place);
    }
    let place = set.iter().find(|place| {
        let before = place.owner.load(order);
        place.is_idle(now) && (place.owner.compare_exchange(before, owner, order, order)).is_ok()
    })?;
    place.forget_proof();
    Some(place)
}

/// The busiest place of those that can be shared: whose owner is not banned and has proved nothing.
fn busiest_in(set: &[Place], now: Instant) -> Option<&Place> {
    let open = set
        .iter()
        .filter(|place| !place.is_banned(now) && !place.has_proof(now));
    open.max_by_key(|place| place.messages.full_at())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sources(places: usize) -> Sources {
        Sources::new(Settings {
            trusted: vec!["127.0.0.0/8".parse().expect("a network")],
            messages: 2,
            answers: 1,
            offences: 4,
            ban: SECOND * 60,
            places,
        })
    }

    fn host(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn start() -> Instant {
        Instant::default() + SECOND
    }

    fn pass(sources: &Sources, address: IpAddr, now: Instant) -> bool {
        matches!(
            sources.message(address, Way::Datagrams, now),
            Judgement::Pass(_)
        )
    }

    #[test]
    fn one_source_is_slowed_down_and_others_are_not() {
        let sources = sources(64);
        let now = start();
        assert_eq!((0..10).filter(|_| pass(&sources, host(1), now)).count(), 4);
        assert!(pass(&sources, host(2), now));
        let wait = sources.message(host(1), Way::Datagrams, now);
        assert_eq!(wait, Judgement::Wait(SECOND / 2));
        assert!(pass(&sources, host(1), now + SECOND / 2));
    }

    #[test]
    fn trusted_networks_are_never_slowed_down_nor_banned() {
        let sources = sources(64);
        let (local, now) = (IpAddr::from([127, 0, 0, 9]), start());
        assert_eq!((0..99).filter(|_| pass(&sources, local, now)).count(), 99);
        for _ in 0..99 {
            let ban = sources.offend(local, Way::Datagrams, Offence::UnknownSession, now);
            assert_eq!(ban, None);
        }
    }

    #[test]
    fn answers_that_nobody_has_proved_have_a_rate_of_their_own() {
        let sources = sources(64);
        let now = start();
        let answered = |now| (0..9).filter(|_| sources.may_answer(host(1), now)).count();
        assert_eq!(answered(now), 2);
        assert_eq!(answered(now + SECOND), 1);
        assert!(pass(&sources, host(1), now));
    }

    fn offend_until_banned(sources: &Sources, way: Way, now: Instant) -> Ban {
        let mut offences = 0..99;
        let ban = offences.find_map(|_| sources.offend(host(1), way, Offence::Malformed, now));
        ban.expect("banned at last")
    }

    #[test]
    fn a_ban_is_temporary_and_each_further_one_twice_as_long() {
        let sources = sources(64);
        let mut now = start();
        for times in 1..=9 {
            let ban = offend_until_banned(&sources, Way::Datagrams, now);
            let factor = 1 << (times - 1).min(6);
            assert_eq!((ban.times, ban.until), (times, now + SECOND * 60 * factor));
            assert!(!pass(&sources, host(1), now));
            assert_eq!(sources.bans(now), [ban]);
            now = ban.until;
            assert!(pass(&sources, host(1), now));
            assert_eq!(sources.bans(now), []);
        }
        now = now + SECOND * 60 * 65;
        let anew = offend_until_banned(&sources, Way::Datagrams, now);
        assert_eq!(anew.times, 1);
    }

    #[test]
    fn what_datagrams_are_accused_of_does_not_touch_connections() {
        let sources = sources(64);
        let now = start();
        offend_until_banned(&sources, Way::Datagrams, now);
        assert!(sources.is_banned(host(1), Way::Datagrams, now));
        assert!(!sources.is_banned(host(1), Way::Connections, now));
        assert!(!sources.is_banned(host(2), Way::Datagrams, now));
    }

    #[test]
    fn the_operator_takes_a_ban_back() {
        let sources = sources(64);
        let now = start();
        offend_until_banned(&sources, Way::Connections, now);
        assert_eq!(sources.pardon(host(1), now), 1);
        assert!(!sources.is_banned(host(1), Way::Connections, now));
        assert_eq!(sources.bans(now), []);
        assert_eq!(sources.pardon(host(1), now), 0);
    }

    #[test]
    fn without_a_place_one_is_judged_like_the_busiest_until_there_is_room() {
        let sources = sources(WAYS);
        let now = start();
        for last in 0..8 {
            while pass(&sources, host(last), now) {}
        }
        assert!(
            !pass(&sources, host(99), now),
            "the table is full of busy sources"
        );
        assert!(pass(&sources, host(99), now + SECOND * 2));
    }

    #[test]
    fn who_was_challenged_often_is_silent_until_he_proves_who_he_is() {
        let sources = sources(64);
        let now = start();
        let way = Way::Datagrams;
        let standing = |now| sources.standing(host(1), way, now);
        for _ in 0..UNANSWERED {
            assert_eq!(standing(now), Standing::Unknown);
            sources.challenge(host(1), way, now);
        }
        assert_eq!(standing(now), Standing::Silent);
        assert_eq!(sources.standing(host(2), way, now), Standing::Unknown);
        assert_eq!(
            standing(now + SECOND),
            Standing::Unknown,
            "one more each second"
        );
        sources.prove(host(1), way, now);
        assert_eq!(standing(now), Standing::Proven);
        let judgement = sources.message(host(1), way, now);
        assert_eq!(judgement, Judgement::Pass(Standing::Proven));
        let other_way = sources.standing(host(1), Way::Connections, now + SECOND);
        assert_eq!(other_way, Standing::Unknown);
        assert_eq!(standing(now + PROOF_LASTS), Standing::Unknown);
    }

    #[test]
    fn a_proof_finds_a_place_among_busy_sources_and_keeps_it() {
        let sources = sources(WAYS);
        let (way, now) = (Way::Datagrams, start());
        let busy = |now| {
            for last in 0..8 {
                while pass(&sources, host(last), now) {}
            }
        };
        busy(now);
        sources.prove(host(99), way, now);
        let later = now + SECOND * 60;
        busy(later);
        assert_eq!(sources.standing(host(99), way, later), Standing::Proven);
        let shared = sources.standing(host(3), way, later);
        assert_eq!(
            shared,
            Standing::Unknown,
            "who has no place shares no proof"
        );
    }

    #[test]
    fn a_stranger_without_a_place_does_no_harm_to_who_has_proved_who_he_is() {
        let sources = sources(WAYS);
        let (way, now) = (Way::Datagrams, start());
        for last in 0..WAYS as u8 {
            sources.prove(host(last), way, now);
        }
        let stranger = host(99);
        assert_eq!((0..9).filter(|_| pass(&sources, stranger, now)).count(), 4);
        assert_eq!(
            (0..9).filter(|_| sources.may_answer(stranger, now)).count(),
            2
        );
        for _ in 0..2 * UNANSWERED {
            sources.challenge(stranger, way, now);
            let ban = sources.offend(stranger, way, Offence::UnknownSession, now);
            assert_eq!(ban, None);
        }
        for last in 0..WAYS as u8 {
            let judgement = sources.message(host(last), way, now);
            assert_eq!(judgement, Judgement::Pass(Standing::Proven), "{last}");
            assert!(sources.may_answer(host(last), now), "{last}");
        }
        assert!(sources.may_answer(stranger, now + SECOND));
    }

    #[test]
    fn who_takes_a_place_over_inherits_nothing() {
        let sources = sources(WAYS);
        let (way, now) = (Way::Datagrams, start());
        for last in 0..8 {
            while pass(&sources, host(last), now) {}
            while sources.may_answer(host(last), now) {}
            let ban = sources.offend(host(last), way, Offence::Malformed, now);
            assert_eq!(ban, None);
            for _ in 0..UNANSWERED {
                sources.challenge(host(last), way, now);
            }
        }
        sources.prove(host(99), way, now);
        assert_eq!((0..9).filter(|_| pass(&sources, host(99), now)).count(), 4);
        assert_eq!(
            (0..9).filter(|_| sources.may_answer(host(99), now)).count(),
            2
        );
        // Four points are allowed.
        let offends = |_: &u8| {
            sources
                .offend(host(99), way, Offence::Malformed, now)
                .is_none()
        };
        assert_eq!((0..9).take_while(offends).count(), 4);
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let free = Sources::new(Settings {
            messages: 0,
            answers: 0,
            offences: 0,
            ..sources(8).settings
        });
        let now = start();
        assert_eq!((0..999).filter(|_| pass(&free, host(1), now)).count(), 999);
        assert!((0..999).all(|_| free.may_answer(host(1), now)));
        let offend = |_| free.offend(host(1), Way::Datagrams, Offence::FailedLogin, now);
        assert!((0..999).all(|index| offend(index).is_none()));
    }
}
