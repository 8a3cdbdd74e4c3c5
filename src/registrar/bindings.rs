//! One user's bindings: an update takes effect completely or not at all (RFC 3261 §10.3).

use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Instant;
use crate::registrar::binding::{Binding, BindingKey, Circumstances};
use crate::registrar::contact::{Contact, TOO_MANY};
use crate::sip::rejection::Rejection;

const OUT_OF_ORDER: Rejection = Rejection::new(500, "CSeq Out of Order");

/// A contact with the lifetime it is granted; zero removes it.
#[derive(Clone, Debug)]
pub(super) struct Granted<'a> {
    pub contact: Contact<'a>,
    pub lifetime: Duration,
}

/// What a REGISTER wants; most have one contact.
pub(super) type Wanted<'a> = SmallVec<[Granted<'a>; 1]>;

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Effect {
    pub came: Vec<BindingKey>,
    pub refreshed: Vec<BindingKey>,
    pub tag_set_changed: Vec<BindingKey>,
    pub gone: Vec<BindingKey>,
    /// Some binding is at another address, or behind another flow, than before.
    pub moved: bool,
    /// Of those that came or were refreshed, those to be written.
    pub write: Vec<BindingKey>,
}

/// A user's bindings, the one registered last at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings {
    pub all: Vec<Binding>,
    /// The deadline that the user is filed under, no later than the earliest of his bindings; zero before he is.
    pub filed: Instant,
}

impl Bindings {
    /// Memory in use, about.
    pub(super) fn footprint(&self) -> usize {
        self.all.iter().map(Binding::footprint).sum()
    }

    /// Moves only the time of a binding, where the REGISTER says again what that was made of and nothing else has to
    /// be done: most do. Tells which; `None`, and nothing done, for any other.
    pub(super) fn renew(
        &mut self,
        wanted: &[Granted<'_>],
        most: usize,
        around: &Circumstances<'_>,
    ) -> Option<BindingKey> {
        let [granted] = wanted else { return None };
        let means = |binding: &Binding| granted.contact.is_same(&binding.facts.identification());
        let mut meant = self.all.iter().enumerate().filter(|(_, it)| means(it));
        let (at, binding) = meant.next()?;
        let is_alone = meant.next().is_none();
        let is_taken = !granted.lifetime.is_zero() && self.all.len() <= most;
        if !is_alone || !is_taken || !binding.is_said_again(granted, around) {
            return None;
        }
        self.all[at].renew(around);
        let key = self.all[at].key.clone();
        self.all[at..].rotate_left(1);
        Some(key)
    }

    /// Adds, refreshes and removes; an error changes nothing.
    pub(super) fn update(
        &mut self,
        wanted: Wanted<'_>,
        most: usize,
        around: &Circumstances<'_>,
    ) -> Result<Effect, Rejection> {
        for granted in &wanted {
            self.in_order(around, |binding| {
                granted.contact.is_same(&binding.facts.identification())
            })?;
        }
        let evicted = self.make_room(&wanted, most)?;
        let mut effect = Effect::default();
        for key in evicted {
            self.all.retain(|binding| binding.key != key);
            effect.gone.push(key);
        }
        for granted in wanted {
            self.replace(granted, around, &mut effect);
        }
        Ok(effect)
    }

    /// Removes all.
    pub(super) fn clear(&mut self, around: &Circumstances<'_>) -> Result<Effect, Rejection> {
        self.in_order(around, |_| true)?;
        Ok(Effect {
            gone: self.all.drain(..).map(|binding| binding.key).collect(),
            ..Effect::default()
        })
    }

    /// The same client's requests take effect in the order of their CSeq (RFC 3261 §10.3 step 7).
    fn in_order(
        &self,
        around: &Circumstances<'_>,
        affected: impl Fn(&Binding) -> bool,
    ) -> Result<(), Rejection> {
        let late = |binding: &Binding| {
            binding.facts.call_id == around.call_id && around.cseq <= binding.facts.cseq
        };
        match self
            .all
            .iter()
            .any(|binding| late(binding) && affected(binding))
        {
            true => Err(OUT_OF_ORDER),
            false => Ok(()),
        }
    }

    /// Which suspended bindings, oldest first, must go so that the update fits. Clients over TCP
    /// often register with a new port and leave the old binding behind.
    fn make_room(&self, wanted: &[Granted<'_>], most: usize) -> Result<Vec<BindingKey>, Rejection> {
        let stays = |binding: &&Binding| {
            let identification = binding.facts.identification();
            !wanted
                .iter()
                .any(|granted| granted.contact.is_same(&identification))
        };
        let staying: Vec<&Binding> = self.all.iter().filter(stays).collect();
        let arriving = wanted.iter().filter(|granted| !granted.lifetime.is_zero());
        let excess = (staying.len() + arriving.count()).saturating_sub(most);
        let evicted: Vec<BindingKey> = staying
            .iter()
            .filter(|binding| binding.suspended)
            .take(excess)
            .map(|binding| binding.key.clone())
            .collect();
        match evicted.len() == excess {
            true => Ok(evicted),
            false => Err(TOO_MANY),
        }
    }

    fn replace(&mut self, granted: Granted<'_>, around: &Circumstances<'_>, effect: &mut Effect) {
        let Granted { contact, lifetime } = granted;
        let same = |binding: &mut Binding| contact.is_same(&binding.facts.identification());
        let old: Vec<Binding> = self.all.extract_if(.., same).collect();
        if lifetime.is_zero() {
            effect
                .gone
                .extend(old.into_iter().map(|binding| binding.key));
            return;
        }
        let mut new = Binding::new(contact, lifetime, around, old.last());
        let key = new.key.clone();
        let predecessor = old.iter().find(|binding| binding.key == key);
        new.facts.had_service |= predecessor.is_some_and(|old| old.facts.had_service);
        effect.moved |= predecessor.is_some_and(|old| old.is_elsewhere_than(&new));
        match predecessor {
            Some(old) if !old.suspended => {
                effect.refreshed.push(key.clone());
                if old.features != new.features {
                    effect.tag_set_changed.push(key.clone());
                }
            }
            _ => effect.came.push(key.clone()),
        }
        match predecessor {
            Some(old) if old.is_plainly_refreshed_by(&new, around.now.instant) => {
                new.stored_at = old.stored_at;
            }
            _ => effect.write.push(key.clone()),
        }
        let others = old.iter().filter(|binding| binding.key != key);
        effect
            .gone
            .extend(others.map(|binding| binding.key.clone()));
        self.add(new);
    }

    /// Puts a binding at the end. Most users have one: a vector that grows by itself begins with room for four.
    pub(super) fn add(&mut self, binding: Binding) {
        self.all.reserve_exact(1);
        self.all.push(binding);
    }

    /// Removes those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Effect {
        let over = self.all.extract_if(.., |binding| binding.deadline <= now);
        Effect {
            gone: over.map(|binding| binding.key).collect(),
            ..Effect::default()
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.all.iter().map(|binding| binding.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Now, UnixMillis};
    use crate::config::Tagless;
    use crate::sip::transport::flow::{Flow, Transport};
    use crate::uri::Uri;
    use proptest::prelude::*;

    const INSTANCE: &str = ";+sip.instance=\"<u:1>\"";

    /// One of a few contacts, two of which are one device.
    fn granted(number: usize, seconds: u64) -> Granted<'static> {
        let (uri, instance) = [
            ("sip:a@192.0.2.1:7", None),
            ("sip:b@h", Some("<u:1>")),
            ("sip:c@h", Some("<u:1>")),
        ][number];
        Granted {
            contact: Contact {
                uri: Uri::parse(uri).unwrap(),
                parameters: instance.map_or("", |_| INSTANCE).to_owned(),
                q: 1_000,
                instance,
                reg_id: None,
                expires: None,
            },
            lifetime: Duration::from_secs(seconds),
        }
    }

    proptest! {
        #[test]
        fn what_is_said_again_ends_as_what_is_made_anew(
            steps in proptest::collection::vec(
                (0usize..3, prop_oneof![8 => Just(600u64), 1 => Just(700), 1 => Just(0)], 0u8..32, 0u64..100),
                1..40,
            ),
        ) {
            let (mut quick, mut anew) = (Bindings::default(), Bindings::default());
            let mut now = Now { instant: Instant::from_micros(1), wall: UnixMillis(1) };
            for (cseq, (number, seconds, odd, after)) in (1..).zip(steps) {
                now = now.plus(Duration::from_secs(after));
                let path = ["<sip:p;lr>".to_owned()];
                let around = Circumstances {
                    call_id: if odd == 1 { "other" } else { "call" },
                    cseq: if odd == 2 { 1 } else { cseq },
                    path: if odd == 3 { &path } else { &[] },
                    flow: Flow {
                        transport: if odd == 4 { Transport::Tcp } else { Transport::Udp },
                        listener: 0,
                        remote: if odd == 5 { "192.0.2.1:9" } else { "192.0.2.9:9" }.parse().unwrap(),
                        connection: None,
                    },
                    user_agent: if odd == 6 { Some("agent") } else { None },
                    tagless: Tagless::Message,
                    now,
                };
                for bindings in [&mut quick, &mut anew] {
                    let lost = bindings.all.iter_mut().filter(|_| odd == 7);
                    lost.for_each(|binding| binding.suspended = true);
                }
                let wanted = Wanted::from_iter([granted(number, seconds)]);
                let made_anew = anew.update(wanted.clone(), 2, &around);
                let effect = match quick.renew(&wanted, 2, &around) {
                    Some(key) => Ok(Effect { refreshed: vec![key], ..Effect::default() }),
                    None => quick.update(wanted, 2, &around),
                };
                prop_assert_eq!(effect, made_anew);
                prop_assert_eq!(&quick.all, &anew.all);
            }
        }
    }
}
