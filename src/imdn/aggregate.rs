//! What a content says: one notification, or several in an aggregate (RFC 5438 §8.3).

use super::{DispositionNotification, ImdnError, is_notification};
use crate::multipart::{self, is_type};

/// Whether a content holds several notifications: `multipart/mixed`, as a whole a `notification`.
pub fn is_aggregate(content_type: &str, content_disposition: Option<&str>) -> bool {
    is_type(content_type, "multipart/mixed")
        && content_disposition.is_some_and(|it| is_type(it, "notification"))
}

/// The notifications a content holds, one or more; `None` if it is something else.
pub fn notices(
    content_type: &str,
    content_disposition: Option<&str>,
    content: &[u8],
) -> Result<Option<Vec<DispositionNotification>>, ImdnError> {
    if is_notification(content_type) {
        return DispositionNotification::parse(content).map(|notice| Some(vec![notice]));
    }
    if !is_aggregate(content_type, content_disposition) {
        return Ok(None);
    }
    let parts = multipart::parts(content_type, content).map_err(|_| ImdnError::BadAggregate)?;
    let notice = |part: &multipart::Part| {
        let octets = content.get(part.body.clone()).unwrap_or_default();
        match is_notification(&part.media_type()) {
            true => DispositionNotification::parse(octets),
            false => Err(ImdnError::BadAggregate),
        }
    };
    let all: Vec<_> = parts.iter().map(notice).collect::<Result<_, _>>()?;
    match all.is_empty() {
        true => Err(ImdnError::BadAggregate),
        false => Ok(Some(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imdn::Kind;

    fn document(id: &str, kind: &str, status: &str) -> String {
        format!(
            "<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\"><message-id>{id}</message-id>\
             <datetime>2026-03-02T09:15:04Z</datetime>\
             <{kind}-notification><status><{status}/></status></{kind}-notification></imdn>"
        )
    }

    fn aggregate(parts: &[(&str, String)]) -> String {
        let part = |(kind, text): &(&str, String)| {
            format!("--b\r\nContent-type: {kind}\r\n\r\n{text}\r\n")
        };
        parts.iter().map(part).collect::<String>() + "--b--"
    }

    const TYPE: &str = "multipart/mixed;\r\n boundary=\"b\"";

    #[test]
    fn an_aggregate_gives_its_notifications_in_order() {
        let body = aggregate(&[
            ("message/imdn+xml", document("one", "delivery", "delivered")),
            ("Message/IMDN+xml", document("one", "display", "displayed")),
        ]);
        let all = notices(TYPE, Some("Notification"), body.as_bytes());
        let all = all.unwrap().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[1].kind), (Kind::Delivery, Kind::Display));
    }

    /// RFC 5438 §9: a message and notifications never come together.
    #[test]
    fn an_aggregate_with_anything_else_inside_is_refused() {
        let body = aggregate(&[
            ("message/imdn+xml", document("one", "delivery", "delivered")),
            ("text/plain", "hello".into()),
        ]);
        let all = notices(TYPE, Some("notification"), body.as_bytes());
        assert_eq!(all, Err(ImdnError::BadAggregate));
        let cut = notices(TYPE, Some("notification"), b"--b\r\n\r\n");
        assert_eq!(cut, Err(ImdnError::BadAggregate));
        let none = notices(TYPE, Some("notification"), b"--b--");
        assert_eq!(none, Err(ImdnError::BadAggregate));
    }

    #[test]
    fn mixed_content_that_is_no_notification_is_left_alone() {
        let body = aggregate(&[("text/plain", "hello".into())]);
        assert_eq!(notices(TYPE, None, body.as_bytes()), Ok(None));
        assert_eq!(notices("text/plain", None, b"hello"), Ok(None));
    }
}
