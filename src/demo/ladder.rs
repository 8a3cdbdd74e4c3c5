//! The conversation as a ladder: three columns, an arrow for each message, as it happens.

use std::io::{self, IsTerminal, Write};

use super::envelope::Envelope;
use super::msrp_text::MsrpText;
use super::sip_text::SipText;
use super::transcript::{Direction, Line};

/// The width of an arrow between two columns.
const ARROW: usize = 34;
const WORDS: usize = 24;

/// Draws lines to standard output, in colour on a terminal.
#[derive(Clone, Debug)]
pub struct Ladder {
    colour: bool,
    /// Who stands on the left.
    left: String,
}

impl Ladder {
    /// With this agent on the left and everybody else on the right. Colours only where they will be
    /// seen as such.
    pub fn new(left: &str) -> Self {
        Self {
            left: left.to_owned(),
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// The names over the columns.
    pub fn heading(&self) {
        let gap = " ".repeat(ARROW - 8);
        self.print(&format!("   time   Alice{gap}Restante{gap}  Bob"));
    }

    /// One message or remark.
    pub fn draw(&self, line: &Line) {
        if let Some(text) = self.render(line) {
            self.print(&text);
        }
    }

    fn render(&self, line: &Line) -> Option<String> {
        let at = format!("{:7.3}s ", line.at.as_secs_f64());
        if line.direction == Direction::Note {
            let text = String::from_utf8_lossy(&line.octets).into_owned();
            return Some(format!("\n{}", self.paint("1", &format!("{at} {text}"))));
        }
        let label = label(&line.octets)?;
        let left = line.agent == self.left;
        let to_right = left == (line.direction == Direction::Sent);
        let shaft = "-".repeat(ARROW.saturating_sub(label.chars().count() + 4));
        let arrow = match to_right {
            true => format!("-- {label} {shaft}>"),
            false => format!("<{shaft} {label} --"),
        };
        let colour = if label.starts_with("MSRP") {
            "36"
        } else {
            "32"
        };
        let arrow = self.paint(colour, &arrow);
        let blank = " ".repeat(ARROW + 2);
        Some(match left {
            true => format!("{at} |{arrow}|{blank}|"),
            false => format!("{at} |{blank}|{arrow}|"),
        })
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn print(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}

/// What stands on an arrow: method or status, and the first words of what is said.
fn label(octets: &[u8]) -> Option<String> {
    if octets.starts_with(b"MSRP ") {
        let frame = MsrpText::take(&mut octets.to_vec()).ok()??;
        let what = frame_kind(&frame);
        return Some(with_words(&format!("MSRP {what}"), frame.body()));
    }
    let sip = SipText::read(octets)?;
    let what = match sip.method() {
        Some(method) => method.to_owned(),
        None => format!("{} {}", sip.status(), sip.cseq_method()),
    };
    Some(with_words(&what, Some(sip.body())))
}

fn frame_kind(frame: &MsrpText) -> String {
    match frame.status() {
        0 if frame.is("REPORT") => format!("REPORT {}", frame.header("Status")),
        0 => "SEND".to_owned(),
        status => status.to_string(),
    }
}

fn with_words(what: &str, body: Option<&[u8]>) -> String {
    let Some(envelope) = body.and_then(Envelope::read) else {
        return what.to_owned();
    };
    let said = match envelope.is_notification() {
        true => notified(&envelope.content_text()),
        false => envelope.content_text(),
    };
    let room = WORDS.saturating_sub(what.len().saturating_sub(4));
    let words: String = said.chars().take(room).collect();
    format!("{what} \"{words}\"")
}

fn notified(xml: &str) -> String {
    ["delivered", "displayed", "stored", "failed"]
        .into_iter()
        .find(|status| xml.contains(&format!("<{status}")))
        .unwrap_or("notification")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn arrows_stand_between_the_right_columns() {
        let line = Line {
            at: Duration::from_millis(1500),
            agent: "bob".to_owned(),
            direction: Direction::Received,
            octets: b"SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\n\r\n".to_vec(),
        };
        let ladder = Ladder {
            colour: false,
            left: "alice".to_owned(),
        };
        let drawn = ladder.render(&line).unwrap();
        assert!(drawn.starts_with("  1.500s  |"));
        assert!(drawn.contains("|-- 200 REGISTER -"));
        assert!(drawn.ends_with(">|"));
    }

    #[test]
    fn an_arrow_carries_the_first_words() {
        let envelope = Envelope::text("sip:a@b", "sip:c@d", "Lunch on Tuesday? Or on Wednesday?");
        let words = with_words("MESSAGE", Some(&envelope.to_octets()));
        assert_eq!(words, "MESSAGE \"Lunch on Tuesday? Or \"");
    }
}
