//! One user's bindings: an update takes effect completely or not at all (RFC 3261 §10.3).

use std::time::Duration;

use crate::clock::Instant;
use crate::registrar::binding::{Binding, BindingKey, Circumstances};
use crate::registrar::contact::{Contact, TOO_MANY};
use crate::sip::rejection::Rejection;

const OUT_OF_ORDER: Rejection = Rejection::new(500, "CSeq Out of Order");

/// A contact with the lifetime it is granted; zero removes it.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub contact: Contact,
    pub lifetime: Duration,
}

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
pub(super) struct Bindings(pub(super) Vec<Binding>);

impl Bindings {
    /// Memory in use, about.
    pub(super) fn footprint(&self) -> usize {
        self.0.iter().map(Binding::footprint).sum()
    }

    /// Adds, refreshes and removes; an error changes nothing.
    pub(super) fn update(
        &mut self,
        wanted: Vec<Granted>,
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
            self.0.retain(|binding| binding.key != key);
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
            gone: self.0.drain(..).map(|binding| binding.key).collect(),
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
            .0
            .iter()
            .any(|binding| late(binding) && affected(binding))
        {
            true => Err(OUT_OF_ORDER),
            false => Ok(()),
        }
    }

    /// Which suspended bindings, oldest first, must go so that the update fits. Clients over TCP
    /// often register with a new port and leave the old binding behind.
    fn make_room(&self, wanted: &[Granted], most: usize) -> Result<Vec<BindingKey>, Rejection> {
        let stays = |binding: &&Binding| {
            let identification = binding.facts.identification();
            !wanted
                .iter()
                .any(|granted| granted.contact.is_same(&identification))
        };
        let staying: Vec<&Binding> = self.0.iter().filter(stays).collect();
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

    fn replace(&mut self, granted: Granted, around: &Circumstances<'_>, effect: &mut Effect) {
        let Granted { contact, lifetime } = granted;
        let same = |binding: &mut Binding| contact.is_same(&binding.facts.identification());
        let old: Vec<Binding> = self.0.extract_if(.., same).collect();
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
        self.0.reserve_exact(1);
        self.0.push(binding);
    }

    /// Removes those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Effect {
        let over = self.0.extract_if(.., |binding| binding.deadline <= now);
        Effect {
            gone: over.map(|binding| binding.key).collect(),
            ..Effect::default()
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().map(|binding| binding.deadline).min()
    }
}
