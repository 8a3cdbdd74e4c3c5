//! The product's story on real sockets, and the user agents that play it.
//!
//! The agents serve the black-box tests too. They read and write SIP, MSRP, SDP and CPIM as plain
//! text with code of their own: nothing here uses the server's parsers, so that a mistake on one
//! side shows on the other. Threads and blocking sockets keep them simple.

mod call;
mod digest_answer;
mod draft;
mod elsewhere;
mod envelope;
mod exchange;
mod expectations;
mod failure;
mod in_call;
mod inbox;
mod invitations;
mod ladder;
mod line;
mod msrp_agent;
mod msrp_receiving;
mod msrp_sending;
mod msrp_text;
mod msrp_tls;
mod part;
mod sdp_text;
mod server_process;
mod sip_text;
mod stage;
mod story;
mod transcript;
mod user_agent;
mod wire;

pub use call::{Chat, IncomingCall, OutgoingCall};
pub use draft::Draft;
pub use elsewhere::{Elsewhere, Login};
pub use envelope::{Disposition, Envelope, fresh};
pub use exchange::{IncomingRequest, SentRequest};
pub use failure::Failure;
pub use invitations::services_tag;
pub use ladder::Ladder;
pub use msrp_agent::{MsrpEnd, MsrpSession};
pub use msrp_receiving::{Answering, ReceivedMessage};
pub use msrp_sending::{Sending, SentMessage};
pub use msrp_text::MsrpText;
pub use msrp_tls::MediaTls;
pub use part::{Part, run_part};
pub use sdp_text::{Setup, attribute, description};
pub use server_process::{Ready, ServerProcess, wait_for};
pub use sip_text::{SipText, address, parameter};
pub use stage::{run, run_against};
pub use transcript::{Direction, Line, Transcript};
pub use user_agent::{PAGER_TAG, PATIENCE, Profile, Reaction, SESSION_TAG, Settings, UserAgent};
pub use wire::Transport;
