//! Offer and answer again, inside a session that stands (RFC 3264 §8, RFC 4975 §8.4).
//!
//! An unchanged path keeps the connection, whatever `a=setup` says. Another path means another
//! connection: the session is bound anew, and sends again what was not confirmed.

use crate::clock::Now;
use crate::msrp::negotiation::{self, Agreement, Role, SdpRefusal};
use crate::msrp::sdp::SessionDescription;
use crate::msrp::uri::{MsrpUri, new_session_id};
use crate::participating::media::{Media, MediaId, secure_peer};
use crate::token::Tokens;

impl Media {
    /// The peer offers again: our answer. A refused offer changes nothing (RFC 3261 §14.2).
    pub fn answer_again(
        &mut self,
        id: MediaId,
        offer: &SessionDescription,
        now: Now,
        tokens: &mut Tokens,
    ) -> Result<String, SdpRefusal> {
        let most = &self.settings;
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(String::new());
        };
        let (_, agreement) = entry.describe(most, |local| negotiation::answer(offer, local))?;
        if self.is_elsewhere(id, &agreement) {
            self.rename(id, tokens);
        }
        let most = &self.settings;
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(String::new());
        };
        let (text, agreement) = entry.write_answer(most, offer)?;
        self.agree_again(id, agreement, now, tokens);
        Ok(text)
    }

    /// The answer to another offer of ours came.
    pub fn accept_again(
        &mut self,
        id: MediaId,
        answer: &SessionDescription,
        now: Now,
        tokens: &mut Tokens,
    ) -> Result<(), SdpRefusal> {
        let most = &self.settings;
        let Some(entry) = self.entries.get(&id) else {
            return Ok(());
        };
        let agreement = entry.describe(most, |local| negotiation::accept_answer(local, answer))?;
        self.agree_again(id, agreement, now, tokens);
        Ok(())
    }

    fn is_elsewhere(&self, id: MediaId, agreement: &Agreement) -> bool {
        let session = self.entries.get(&id).and_then(|it| it.session.as_ref());
        session.is_some_and(|session| session.remote().uris() != agreement.peer.uris())
    }

    /// A replacement session has a name of its own, so that nothing late can be taken for part of it.
    fn rename(&mut self, id: MediaId, tokens: &mut Tokens) {
        let session_id = new_session_id(self.shard, tokens);
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let port = entry.uri.port().unwrap_or_default();
        let of_session = if entry.uri.is_secure() {
            MsrpUri::of_secure_session
        } else {
            MsrpUri::of_session
        };
        let Ok(uri) = of_session(entry.uri.host(), port, &session_id) else {
            return;
        };
        let old = std::mem::replace(&mut entry.uri, uri);
        if let Some(old) = old.session_id() {
            self.by_session.remove(old);
        }
        self.by_session.insert(session_id, id);
    }

    fn agree_again(&mut self, id: MediaId, agreement: Agreement, now: Now, tokens: &mut Tokens) {
        let elsewhere = self.is_elsewhere(id, &agreement);
        let (host, port) = agreement.meets_at.clone();
        if elsewhere {
            // What is written already still leaves on the old connection.
            self.drain_session(id);
        }
        let bind_by = now.instant + self.settings.bind_within;
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let peer = secure_peer(&entry.uri, &agreement);
        entry.description.agreed = agreement.direction;
        let Some(session) = entry.session.as_mut() else {
            return;
        };
        session.set_accept_types(agreement.accept_types);
        if !elsewhere {
            return;
        }
        let left = session.rebind(entry.uri.clone(), agreement.peer, tokens);
        entry.bind_by = Some(bind_by);
        entry.peer = peer;
        entry.is_stirred = true;
        self.stirred.push_back(id);
        self.attempts.retain(|_, waiting| *waiting != id);
        if let Some(connection) = left {
            self.leave(connection, id);
        }
        if agreement.role == Role::Active {
            self.connect(id, &host, port);
        }
    }
}
