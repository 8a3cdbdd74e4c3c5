//! Caller preferences (RFC 3841): which contacts a request may go to, and in which order.

use crate::registrar::feature::FeatureSet;
use crate::sip::header::{Parameters, split_list};
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::rejection::Rejection;

/// Values of one header that are looked at.
const MOST_VALUES: usize = 16;

/// A value of Accept-Contact or Reject-Contact.
#[derive(Clone, Debug, PartialEq)]
struct Predicate {
    terms: FeatureSet,
    require: bool,
    explicit: bool,
}

/// What the caller wishes of the device that answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Preferences {
    accept: Vec<Predicate>,
    reject: Vec<Predicate>,
    /// Stated in the request, not derived from its method.
    explicit: bool,
}

/// A contact to send the request to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Which of the contacts that were offered.
    pub index: usize,
    /// The callee's own preference, in thousandths.
    pub q: u16,
    /// The caller preference Qa, 0 to 1.
    pub score: f64,
}

impl Preferences {
    /// The preferences of a request: those it states, else those its method implies (§7.2.2).
    pub fn of(request: &Message) -> Result<Self, Rejection> {
        let accept = predicates(request, HeaderName::AcceptContact)?;
        let reject = predicates(request, HeaderName::RejectContact)?;
        if !accept.is_empty() || !reject.is_empty() {
            return Ok(Self {
                accept,
                reject,
                explicit: true,
            });
        }
        let mut terms = FeatureSet::method(request.method_str());
        if request.method() == Method::Subscribe
            && let Some(event) = request.header(HeaderName::Event)
        {
            terms.add_event(event.split(';').next().unwrap_or_default().trim());
        }
        let implied = Predicate {
            terms,
            require: true,
            explicit: false,
        };
        Ok(Self {
            accept: vec![implied],
            reject: Vec::new(),
            explicit: false,
        })
    }

    /// Whether the caller wants none but contacts that say what he asks for (RFC 3841 §9.2 `require`).
    pub fn insist(&self) -> bool {
        self.explicit && self.accept.iter().any(|predicate| predicate.require)
    }

    /// The contacts that fit, best first: by q, then by score, then in the order given. Each
    /// contact is given as its features and its q.
    ///
    /// Stated preferences that nobody fits give 480; implied ones are then dropped (§7.2.4).
    pub fn order<'c>(
        &self,
        contacts: impl Iterator<Item = (&'c FeatureSet, u16)> + Clone,
    ) -> Result<Vec<Target>, Rejection> {
        let everyone = contacts.enumerate();
        let fitting = everyone.clone().filter_map(|(index, (features, q))| {
            let score = self.score(features)?;
            Some(Target { index, q, score })
        });
        let mut targets: Vec<Target> = fitting.collect();
        if targets.is_empty() {
            if self.explicit {
                return Err(Rejection::new(480, "Temporarily Unavailable"));
            }
            let all = |(index, (_, q))| Target {
                index,
                q,
                score: 1.0,
            };
            targets = everyone.map(all).collect();
        }
        targets.sort_by(|a, b| b.q.cmp(&a.q).then(b.score.total_cmp(&a.score)));
        Ok(targets)
    }

    /// Qa of one contact; `None` if it is dropped. A contact without features is immune.
    fn score(&self, features: &FeatureSet) -> Option<f64> {
        if features.is_empty() {
            return Some(1.0);
        }
        if self
            .reject
            .iter()
            .any(|predicate| predicate.rejects(features))
        {
            return None;
        }
        let (mut sum, mut matching) = (0.0, 0.0);
        for predicate in &self.accept {
            match predicate.score(features) {
                Score::Dropped => return None,
                Score::Mismatch => {}
                Score::Match(score) => {
                    sum += score;
                    matching += 1.0;
                }
            }
        }
        Some(if matching > 0.0 { sum / matching } else { 0.0 })
    }
}

enum Score {
    Dropped,
    Mismatch,
    Match(f64),
}

impl Predicate {
    fn parse(value: &str) -> Option<Self> {
        let rest = value.trim().strip_prefix('*')?.trim_start();
        if !rest.is_empty() && !rest.starts_with(';') {
            return None;
        }
        let parameters = Parameters::new(rest);
        Some(Self {
            terms: FeatureSet::of(&parameters),
            require: parameters.find("require").is_some(),
            explicit: parameters.find("explicit").is_some(),
        })
    }

    /// Only what a contact states can be held against it.
    fn rejects(&self, features: &FeatureSet) -> bool {
        let meets = |term: &super::feature::Feature| {
            features.find(&term.name).is_some_and(|own| term.meets(own))
        };
        !self.terms.is_empty() && self.terms.iter().all(meets)
    }

    fn score(&self, features: &FeatureSet) -> Score {
        let mut stated = 0.0;
        for term in self.terms.iter() {
            match features.find(&term.name) {
                Some(own) if term.meets(own) => stated += 1.0,
                Some(_) if self.require => return Score::Dropped,
                Some(_) => return Score::Mismatch,
                None => {}
            }
        }
        let count = self.terms.iter().len();
        if count == 0 {
            return Score::Match(1.0);
        }
        let score = stated / count as f64;
        match (score < 1.0 && self.explicit, self.require) {
            (true, true) => Score::Dropped,
            (true, false) => Score::Match(0.0),
            (false, _) => Score::Match(score),
        }
    }
}

fn predicates(request: &Message, name: HeaderName) -> Result<Vec<Predicate>, Rejection> {
    let reason = match name {
        HeaderName::AcceptContact => "Malformed Accept-Contact",
        _ => "Malformed Reject-Contact",
    };
    request
        .headers(name)
        .flat_map(split_list)
        .take(MOST_VALUES)
        .map(|value| Predicate::parse(value).ok_or(Rejection::new(400, reason)))
        .collect()
}

/// How the caller wants proxies to treat the request (RFC 3841 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestDisposition {
    /// Proxy it, rather than answer with a redirection.
    pub proxy: bool,
    /// Cancel the other branches when one has answered.
    pub cancel: bool,
    /// Send it to several contacts.
    pub fork: bool,
    /// Follow redirections.
    pub recurse: bool,
    /// To several at once, rather than one after the other.
    pub parallel: bool,
    /// Wait for a busy callee.
    pub queue: bool,
}

impl RequestDisposition {
    /// What the request says; what it does not say is as RFC 3261 §16 does it.
    pub fn of(request: &Message) -> Self {
        let mut disposition = Self {
            proxy: true,
            cancel: true,
            fork: true,
            recurse: true,
            parallel: true,
            queue: false,
        };
        for directive in request
            .values(HeaderName::RequestDisposition)
            .take(MOST_VALUES)
        {
            match directive.to_ascii_lowercase().as_str() {
                "redirect" => disposition.proxy = false,
                "no-cancel" => disposition.cancel = false,
                "no-fork" => disposition.fork = false,
                "no-recurse" => disposition.recurse = false,
                "sequential" => disposition.parallel = false,
                "queue" => disposition.queue = true,
                _ => {}
            }
        }
        disposition
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn request(method: &str, lines: &str) -> Message {
        let text = format!(
            "{method} sip:user@example.com SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{lines}\
             From: <sip:a@b>;tag=1\r\nTo: <sip:user@example.com>\r\nCall-ID: 1\r\n\
             CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    fn order(request: &Message, contacts: &[(&str, u16)]) -> Result<Vec<usize>, u16> {
        let contacts: Vec<(FeatureSet, u16)> = contacts
            .iter()
            .map(|(text, q)| (FeatureSet::of(&Parameters::new(text)), *q))
            .collect();
        let preferences = Preferences::of(request).map_err(|rejection| rejection.status)?;
        let targets = preferences.order(contacts.iter().map(|(features, q)| (features, *q)));
        let targets = targets.map_err(|rejection| rejection.status)?;
        Ok(targets.iter().map(|target| target.index + 1).collect())
    }

    #[test]
    fn the_example_of_rfc_3841_section_7_2_5() {
        let contacts = [
            (";audio;video;methods=\"INVITE,BYE\"", 200),
            (
                ";audio=\"FALSE\";methods=\"INVITE\";actor=\"msg-taker\"",
                200,
            ),
            (";audio;actor=\"msg-taker\";methods=\"INVITE\";video", 300),
            (";audio;methods=\"INVITE,OPTIONS\"", 200),
            ("", 500),
        ];
        let request = request(
            "INVITE",
            "Reject-Contact: *;actor=\"msg-taker\";video\r\n\
             Accept-Contact: *;audio;require\r\n\
             Accept-Contact: *;video;explicit\r\n\
             Accept-Contact: *;methods=\"BYE\";class=\"business\";q=1.0\r\n",
        );
        assert_eq!(order(&request, &contacts), Ok(vec![5, 1, 4]));
    }

    #[test]
    fn the_plain_cpm_form_keeps_nobody_out_and_the_strict_form_does() {
        let cpm = ";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session\"";
        let contacts = [(";video", 1_000), (cpm, 1_000)];
        let plain = request("INVITE", &format!("Accept-Contact: *{cpm}\r\n"));
        assert_eq!(order(&plain, &contacts), Ok(vec![2, 1]));
        let strict = request("INVITE", &format!("a: *{cpm};require;explicit\r\n"));
        assert_eq!(order(&strict, &contacts), Ok(vec![2]));
        assert_eq!(order(&strict, &contacts[..1]), Err(480));
    }

    #[test]
    fn a_contact_that_states_another_value_is_dropped_only_if_required() {
        let contacts = [(";mobility=\"fixed\"", 1_000)];
        let wish = request("INVITE", "Accept-Contact: *;mobility=\"mobile\"\r\n");
        assert_eq!(order(&wish, &contacts), Ok(vec![1]));
        let must = request(
            "INVITE",
            "Accept-Contact: *;mobility=\"mobile\";require\r\n",
        );
        assert_eq!(order(&must, &contacts), Err(480));
    }

    #[test]
    fn implied_preferences_never_leave_nobody() {
        let contacts = [
            (";methods=\"INVITE\"", 1_000),
            (";methods=\"MESSAGE\"", 500),
        ];
        let request = request("MESSAGE", "");
        assert_eq!(order(&request, &contacts), Ok(vec![2]));
        assert_eq!(order(&request, &contacts[..1]), Ok(vec![1]));
    }

    #[test]
    fn a_subscription_implies_its_event_package() {
        let contacts = [
            (";events=\"presence\"", 1_000),
            (";events=\"dialog,conference\"", 1),
        ];
        let request = request("SUBSCRIBE", "Event: conference;id=1\r\n");
        assert_eq!(order(&request, &contacts), Ok(vec![2]));
    }

    #[test]
    fn contacts_alike_stay_in_their_order() {
        let contacts = [("", 500), ("", 500), ("", 1_000)];
        assert_eq!(order(&request("MESSAGE", ""), &contacts), Ok(vec![3, 1, 2]));
        assert_eq!(order(&request("MESSAGE", ""), &[]), Ok(vec![]));
    }

    #[test]
    fn a_value_that_does_not_begin_with_a_star_is_malformed() {
        let contacts = [(";audio", 1)];
        for value in ["audio", "*audio", "<sip:a@b>;audio"] {
            let request = request("INVITE", &format!("Accept-Contact: {value}\r\n"));
            assert_eq!(order(&request, &contacts), Err(400), "{value}");
        }
    }

    #[test]
    fn request_disposition_is_read_in_its_compact_form_too() {
        let disposition = RequestDisposition::of(&request("INVITE", "d: no-fork, Queue\r\n"));
        assert!(!disposition.fork && disposition.queue && disposition.parallel);
    }

    proptest! {
        #[test]
        fn scores_stay_between_zero_and_one(
            contact in "(;(audio|video|\\+x|class)(=\"?[a-c!#<>=0-9,]{0,5}\"?)?){0,4}",
            wish in "(;(audio|video|\\+x|class|require|explicit)(=\"?[a-c!#<>=0-9,]{0,5}\"?)?){0,4}",
        ) {
            let features = FeatureSet::of(&Parameters::new(&contact));
            let predicate = Predicate::parse(&format!("*{wish}")).unwrap();
            for (accept, reject) in [(vec![predicate.clone()], vec![]), (vec![], vec![predicate])] {
                let preferences = Preferences { accept, reject, explicit: true };
                if let Some(score) = preferences.score(&features) {
                    prop_assert!((0.0..=1.0).contains(&score));
                }
            }
        }
    }
}
