//! What a user may send: by the operator's switches, by his own limits, by what the whole server passes on.
//!
//! Asked of every message before its recipient is, whether by MESSAGE, inside an INVITE or in a chat.
//! Receipts pass: they speak of a message somebody else has sent. Who has no limit costs a look at his
//! settings and nothing else.

use std::time::Duration;

use crate::clock::Now;
use crate::config::UserSettings;
use crate::cpim::{self, Envelope};
use crate::identity::Identity;
use crate::limits::ledger::{Quota, Spent, Used};
use crate::limits::meters::Flow;
use crate::limits::rate::Rate;
use crate::metrics::ShardMetrics;
use crate::msrp::sdp::{SessionDescription, accepts};
use crate::participating::arrival;
use crate::participating::chat::{ChatId, Side};
use crate::participating::first_message::FirstMessage;
use crate::participating::service::Service;
use crate::participating::transit::{HEAD, Transit};
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::warning;

/// RFC 3994 §2
const IS_COMPOSING: &str = "application/im-iscomposing+xml";

/// Why something is not taken from a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The operator lets nobody send, or not him.
    Barred,
    /// It names somebody else as its author.
    Name,
    /// It is for presence, and he may not use that.
    Presence,
    /// It is larger, or its text longer, than he may send.
    TooLarge,
    /// He may not send this type.
    Type,
    /// He sends too many requests.
    Requests(Duration),
    /// He has sent as many messages as he may.
    Messages(Duration),
    /// He has sent as many octets as he may.
    Octets(Duration),
    /// The whole server passes on no more at the moment.
    Flow(Duration),
    /// Too many users with limits send.
    NoPlace(Duration),
}

impl Refused {
    /// The answer to his request.
    pub fn rejection(self) -> Rejection {
        match self {
            Self::Barred | Self::Name => {
                Rejection::new(403, "Forbidden").with_warning(warning::NOT_AUTHORISED)
            }
            Self::Presence => Rejection::new(403, "Forbidden").with_warning(warning::NOT_ALLOWED),
            Self::TooLarge => {
                Rejection::new(413, "Request Entity Too Large").with_warning(warning::TOO_LARGE)
            }
            Self::Type => Rejection::new(415, "Unsupported Media Type"),
            Self::Requests(wait)
            | Self::Messages(wait)
            | Self::Octets(wait)
            | Self::Flow(wait)
            | Self::NoPlace(wait) => {
                Rejection::new(503, "Service Unavailable").with_retry_after(wait)
            }
        }
    }

    /// The answer to his SEND: MSRP has no "later", so he is to stop sending it (RFC 4975 §10.5).
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Barred | Self::Name | Self::Presence => 403,
            Self::Type => 415,
            _ => 413,
        }
    }

    pub(super) fn count(self, metrics: &ShardMetrics) {
        let counter = match self {
            Self::Barred => &metrics.refused_submission,
            Self::Name => &metrics.refused_name,
            Self::Presence => &metrics.refused_presence,
            Self::TooLarge => &metrics.refused_size,
            Self::Type => &metrics.refused_type,
            Self::Requests(_) => &metrics.refused_user_rate,
            Self::Messages(_) => &metrics.refused_user_messages,
            Self::Octets(_) => &metrics.refused_user_octets,
            Self::Flow(_) => &metrics.refused_flow,
            Self::NoPlace(_) => &metrics.refused_no_place,
        };
        counter.count();
    }
}

impl From<Spent> for Refused {
    fn from(spent: Spent) -> Self {
        match spent {
            Spent::Messages(wait) => Self::Messages(wait),
            Spent::Octets(wait) => Self::Octets(wait),
            Spent::NoPlace(wait) => Self::NoPlace(wait),
        }
    }
}

/// What is asked about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent<'a> {
    /// What is in it, if that is known: inside an envelope, the type of the content.
    pub content_type: Option<&'a str>,
    /// Octets of the whole body.
    pub octets: u64,
    /// Characters, if it is a text and they are limited.
    pub characters: Option<u64>,
    /// It says that somebody is typing: no message.
    pub is_composing: bool,
}

impl<'a> Sent<'a> {
    /// A message that is all there. A malformed envelope counts as what it calls itself.
    pub fn read(content_type: &'a str, body: &'a [u8], settings: &UserSettings) -> Self {
        let envelope = match arrival::is_type(content_type, cpim::MEDIA_TYPE) {
            true => Envelope::parse(body).ok(),
            false => None,
        };
        let (inner, content) = match &envelope {
            Some(envelope) => (envelope.content_type(), body.get(envelope.content())),
            None => (content_type, Some(body)),
        };
        let is_counted = settings.max_text_length > 0 && is_text(inner);
        Self {
            content_type: Some(inner),
            octets: body.len() as u64,
            characters: content.filter(|_| is_counted).map(characters),
            is_composing: is_composing(inner),
        }
    }

    /// Whether a user with these settings may send it at all.
    pub fn fits(&self, settings: &UserSettings) -> Result<(), Refused> {
        let (most, longest) = (
            settings.max_message_size.get(),
            u64::from(settings.max_text_length),
        );
        if most > 0 && self.octets > most {
            return Err(Refused::TooLarge);
        }
        if longest > 0 && self.characters.is_some_and(|length| length > longest) {
            return Err(Refused::TooLarge);
        }
        let has_type = |it| self.is_composing || may_send_type(settings, it);
        match self.content_type.is_none_or(has_type) {
            true => Ok(()),
            false => Err(Refused::Type),
        }
    }

    fn messages(&self) -> u32 {
        u32::from(!self.is_composing)
    }
}

/// Whether a user may send this type, as far as his lists say.
fn may_send_type(settings: &UserSettings, content_type: &str) -> bool {
    let listed = &settings.content_types;
    (listed.is_empty() || accepts(listed, content_type))
        && !accepts(&settings.barred_types, content_type)
}

/// Whether a user with these settings has any limit to what he sends.
fn has_limits(settings: &UserSettings) -> bool {
    settings.max_message_size.get() > 0
        || settings.max_text_length > 0
        || settings.messages_per_period > 0
        || settings.octets_per_period.get() > 0
        || !settings.content_types.is_empty()
        || !settings.barred_types.is_empty()
}

/// What a user hears in the answer to his offer: the largest message taken, and the types taken inside
/// envelopes if only some are; receipts and word of typing always are.
pub(super) fn told_in_session(settings: &UserSettings) -> (Option<u64>, Vec<String>) {
    let most = Some(settings.max_message_size.get()).filter(|most| *most > 0);
    let mut wrapped = settings.content_types.clone();
    if !wrapped.is_empty() {
        wrapped.extend([crate::imdn::MEDIA_TYPE.to_owned(), IS_COMPOSING.to_owned()]);
    }
    (most, wrapped)
}

fn is_text(content_type: &str) -> bool {
    let kind = content_type.split('/').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text")
}

fn is_composing(content_type: &str) -> bool {
    arrival::is_type(content_type, IS_COMPOSING)
}

/// In UTF-8 every character has one octet that does not begin with the bits 10 (RFC 3629 §3).
fn characters(text: &[u8]) -> u64 {
    text.iter().filter(|octet| **octet & 0xc0 != 0x80).count() as u64
}

fn quota(settings: &UserSettings) -> Quota {
    Quota {
        period: settings.period.duration(),
        messages: settings.messages_per_period,
        octets: settings.octets_per_period.get(),
    }
}

impl Service {
    /// Whether a user may send messages at the moment.
    fn may_submit(&self, author: &Identity) -> Result<(), Refused> {
        let may = self.traffic.submission && self.settings_of(author).settings.may_send;
        may.then_some(()).ok_or(Refused::Barred)
    }

    /// Takes a MESSAGE from its author, or says why not.
    pub(super) fn submit_message(
        &self,
        request: &Message,
        author: &Identity,
        now: Now,
    ) -> Result<(), Refused> {
        let content_type = request.header(HeaderName::ContentType);
        let content_type = content_type.unwrap_or("text/plain");
        if self.names_another(author, content_type, request.body()) {
            return self.noted(Err(Refused::Name));
        }
        if !self.is_measured(author) {
            return Ok(());
        }
        let settings = &self.settings_of(author).settings;
        let sent = Sent::read(content_type, request.body(), settings);
        self.submit(author, &sent, now)
    }

    /// Takes a message from its author, or says why not.
    fn submit(&self, author: &Identity, sent: &Sent<'_>, now: Now) -> Result<(), Refused> {
        let fits = self
            .may_submit(author)
            .and_then(|()| sent.fits(&self.settings_of(author).settings));
        let taken = fits.and_then(|()| self.take(author, sent.messages(), sent.octets, now));
        self.noted(taken)
    }

    /// Whether what this user sends can be refused at all.
    pub(super) fn is_measured(&self, author: &Identity) -> bool {
        let traffic = &self.traffic;
        self.may_submit(author).is_err()
            || traffic.messages_per_second > 0
            || traffic.octets_per_second.get() > 0
            || has_limits(&self.settings_of(author).settings)
    }

    /// Octets of the largest message that a user may send, if he has a limit.
    pub(super) fn largest_of(&self, author: &Identity) -> Option<u64> {
        let most = self.settings_of(author).settings.max_message_size.get();
        (most > 0).then_some(most)
    }

    /// What of a message in a chat has arrived: whether it may go on, and how many octets have been
    /// counted for it. `None`: more has to come first.
    pub(super) fn submit_transit(
        &self,
        author: &Identity,
        transit: &Transit,
        now: Now,
    ) -> Option<Result<u64, Refused>> {
        if transit.is_notification() {
            return Some(Ok(0));
        }
        if self.names_another(author, &transit.content_type, transit.first()) {
            return Some(self.noted(Err(Refused::Name)).map(|()| 0));
        }
        let settings = &self.settings_of(author).settings;
        let arrived = transit.covered.prefix();
        let said = transit.complete.or(transit.total);
        let mut sent = Sent::read(&transit.content_type, &transit.head, settings);
        sent.octets = said.unwrap_or(arrived).max(arrived);
        if sent.characters.is_some() {
            if sent.octets > HEAD as u64 {
                // No text that a user can be limited to is so long.
                sent.characters = Some(u64::MAX);
            } else if said != Some(arrived) {
                return None;
            }
        }
        let taken = self.submit(author, &sent, now);
        Some(taken.map(|()| sent.octets))
    }

    /// So much of a message in a chat has come beyond what its sender had said.
    pub(super) fn count_more(&self, id: ChatId, side: Side, octets: u64, now: Now) {
        if let Some(chat) = self.chats.get(&id)
            && octets > 0
        {
            // Refused or not: what has been sent has been sent.
            let _ = self.take(chat.person(side), 0, octets, now);
        }
    }

    fn take(&self, author: &Identity, messages: u32, octets: u64, now: Now) -> Result<(), Refused> {
        let settings = &self.settings_of(author).settings;
        let quota = quota(settings);
        let is_limited = quota.messages > 0 || quota.octets > 0;
        let (senders, at) = (&self.meters.senders, now.instant);
        if is_limited {
            if quota.octets > 0 && octets > quota.octets {
                return Err(Refused::TooLarge);
            }
            senders.take(author, quota, messages, octets, at)?;
        }
        let flow = Flow {
            messages: self.traffic.messages_per_second,
            octets: self.traffic.octets_per_second.get(),
        };
        self.meters
            .take(flow, messages, octets, at)
            .map_err(|wait| {
                if is_limited {
                    senders.give_back(author, messages, octets);
                }
                Refused::Flow(wait)
            })
    }

    /// Whether a user may begin a session with this offer, and with the message beside it.
    pub(super) fn submit_session(
        &self,
        author: &Identity,
        offer: &SessionDescription,
        first: Option<&FirstMessage>,
        now: Now,
    ) -> Result<(), Refused> {
        let begun = self.may_begin(author, offer, now);
        self.noted(begun)?;
        let Some((content_type, body)) = first.and_then(FirstMessage::submitted) else {
            return Ok(());
        };
        if self.names_another(author, content_type, body) {
            return self.noted(Err(Refused::Name));
        }
        let settings = &self.directory.settings(author).settings;
        let sent = Sent::read(content_type, body, settings);
        self.submit(author, &sent, now)
    }

    fn may_begin(
        &self,
        author: &Identity,
        offer: &SessionDescription,
        now: Now,
    ) -> Result<(), Refused> {
        self.may_submit(author)?;
        let settings = &self.settings_of(author).settings;
        let file = offer.usable().next().map(|(_, media)| media);
        let sent = Sent {
            content_type: file.and_then(|file| file.file_type.as_deref()),
            octets: file.and_then(|file| file.file_size).unwrap_or(0),
            characters: None,
            is_composing: false,
        };
        sent.fits(settings)?;
        let quota = quota(settings);
        let Used {
            messages,
            octets,
            left,
        } = match quota.messages > 0 || quota.octets > 0 {
            true => self.meters.senders.used(author, now.instant),
            false => return Ok(()),
        };
        if quota.messages > 0 && messages >= quota.messages {
            return Err(Refused::Messages(left));
        }
        let with_file = octets.saturating_add(sent.octets.max(1));
        if quota.octets > 0 && with_file > quota.octets {
            return Err(Refused::Octets(left));
        }
        Ok(())
    }

    /// One more request outside dialogs of a user.
    pub fn take_request(
        &self,
        author: &Identity,
        method: Method,
        now: Now,
    ) -> Result<(), Rejection> {
        let settings = &self.directory.settings(author).settings;
        let is_presence = matches!(method, Method::Publish | Method::Subscribe);
        let per_second = settings.requests_per_second;
        let taken = if is_presence && !settings.may_use_presence {
            Err(Refused::Presence)
        } else if per_second > 0 {
            let burst = match settings.requests_burst {
                0 => per_second,
                burst => burst,
            };
            let rate = Rate::new(per_second, burst);
            let taken = self.meters.senders.take_request(author, rate, now.instant);
            taken.map_err(Refused::Requests)
        } else {
            Ok(())
        };
        self.noted(taken).map_err(Refused::rejection)
    }

    fn noted(&self, taken: Result<(), Refused>) -> Result<(), Refused> {
        if let Err(refused) = taken {
            refused.count(&self.metrics);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SettingsOverrides;

    fn settings(text: &str) -> UserSettings {
        let overrides: SettingsOverrides = toml::from_str(text).expect("legal settings");
        overrides.over(&UserSettings::default()).settings
    }

    fn says(text: &str, content_type: &str, body: &[u8]) -> Result<(), Refused> {
        let settings = settings(text);
        Sent::read(content_type, body, &settings).fits(&settings)
    }

    fn in_envelope(content_type: &str, text: &str) -> Vec<u8> {
        format!(
            "From: <sip:a@im.test>\r\nTo: <sip:b@im.test>\r\n\r\n\
             Content-Type: {content_type}\r\n\r\n{text}"
        )
        .into_bytes()
    }

    #[test]
    fn without_a_limit_everything_may_be_sent() {
        assert_eq!(says("", "image/png", &[0; 100_000]), Ok(()));
        assert!(!has_limits(&UserSettings::default()));
    }

    #[test]
    fn what_is_larger_than_a_user_may_send_is_too_large() {
        let most = "max_message_size = 10";
        assert_eq!(says(most, "text/plain", &[b'x'; 10]), Ok(()));
        let over = says(most, "text/plain", &[b'x'; 11]);
        assert_eq!(over, Err(Refused::TooLarge));
        assert_eq!(over.unwrap_err().rejection().status, 413);
    }

    #[test]
    fn the_length_of_a_text_is_counted_in_characters_and_without_its_envelope() {
        let longest = "max_text_length = 3";
        assert_eq!(says(longest, "text/plain", "äöü".as_bytes()), Ok(()));
        let over = Err(Refused::TooLarge);
        assert_eq!(says(longest, "text/plain", b"four"), over);
        let fits = in_envelope("text/plain;charset=UTF-8", "äöü");
        assert_eq!(says(longest, "message/cpim", &fits), Ok(()));
        let longer = in_envelope("text/plain", "four");
        assert_eq!(says(longest, "message/cpim", &longer), over);
        assert_eq!(says(longest, "image/png", b"no text"), Ok(()));
    }

    #[test]
    fn the_type_counts_that_is_inside_the_envelope() {
        let only = "content_types = [\"text/plain\", \"image/*\"]\nbarred_types = [\"image/gif\"]";
        let barred = Err(Refused::Type);
        assert_eq!(says(only, "text/plain; charset=utf-8", b"x"), Ok(()));
        assert_eq!(says(only, "text/html", b"x"), barred);
        assert_eq!(says(only, "image/png", b"x"), Ok(()));
        assert_eq!(says(only, "image/gif", b"x"), barred);
        let html = in_envelope("text/html", "x");
        assert_eq!(says(only, "message/cpim", &html), barred);
        let plain = in_envelope("text/plain", "x");
        assert_eq!(says(only, "message/cpim", &plain), Ok(()));
        let typing = in_envelope("application/im-iscomposing+xml", "<x/>");
        assert_eq!(says(only, "message/cpim", &typing), Ok(()));
    }
}
