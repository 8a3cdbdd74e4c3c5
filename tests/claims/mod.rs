//! What holds whatever the octets are: one claim for each parser and each machine.
//!
//! A claim takes octets, reads from them what happens, and panics if what it claims does not hold. The
//! fuzzing targets of `fuzz/` and the bounded run of `tests/mutation.rs` call the same claims.

#![allow(
    dead_code,
    reason = "the fuzzing targets and the tests each use a part of it"
)]

pub mod bodies;
pub mod choices;
pub mod core;
pub mod kept;
pub mod machines;
pub mod msrp;
pub mod msrp_pair;
pub mod mutator;
pub mod seeds;
pub mod served_user;
pub mod sip;
pub mod values;

/// A claim, the octets it is shown first, and its name, which is that of its target.
#[derive(Clone, Copy)]
pub struct Claim {
    /// As the target and its corpus are called.
    pub name: &'static str,
    /// Panics if the claim does not hold for these octets.
    pub check: fn(&[u8]),
    /// Well-formed octets to mutate.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every claim.
pub const ALL: [Claim; 22] = [
    Claim {
        name: "sip_message_is_read_soundly",
        check: sip::message_is_read_soundly,
        seeds: seeds::sip,
    },
    Claim {
        name: "sip_stream_is_cut_alike_wherever_it_is_split",
        check: sip::stream_is_cut_alike,
        seeds: seeds::sip_streams,
    },
    Claim {
        name: "sip_edit_leaves_the_rest_untouched",
        check: sip::edit_leaves_the_rest_untouched,
        seeds: seeds::sip,
    },
    Claim {
        name: "sip_field_values_are_read_soundly",
        check: values::field_values_are_read_soundly,
        seeds: seeds::values,
    },
    Claim {
        name: "uris_are_compared_both_ways_alike",
        check: values::uris_are_compared_alike,
        seeds: seeds::uris,
    },
    Claim {
        name: "credentials_cannot_be_made_up",
        check: values::credentials_cannot_be_made_up,
        seeds: seeds::credentials,
    },
    Claim {
        name: "preferences_choose_among_the_contacts",
        check: values::preferences_choose_among_the_contacts,
        seeds: seeds::preferences,
    },
    Claim {
        name: "dialog_and_session_timer_make_legal_requests",
        check: machines::dialog_makes_legal_requests,
        seeds: seeds::dialogs,
    },
    Claim {
        name: "transactions_end_once_and_all",
        check: machines::transactions_end_once_and_all,
        seeds: seeds::choices,
    },
    Claim {
        name: "msrp_stream_is_read_alike_wherever_it_is_split",
        check: msrp::stream_is_read_alike,
        seeds: seeds::msrp,
    },
    Claim {
        name: "msrp_uris_and_paths_are_read_soundly",
        check: msrp::uris_and_paths_are_read_soundly,
        seeds: seeds::msrp_uris,
    },
    Claim {
        name: "session_descriptions_are_answered_soundly",
        check: msrp::descriptions_are_answered_soundly,
        seeds: seeds::descriptions,
    },
    Claim {
        name: "msrp_session_survives_any_peer",
        check: msrp_pair::session_survives_any_peer,
        seeds: seeds::msrp,
    },
    Claim {
        name: "msrp_pair_delivers_what_was_sent",
        check: msrp_pair::pair_delivers_what_was_sent,
        seeds: seeds::choices,
    },
    Claim {
        name: "envelopes_are_read_without_touching_them",
        check: bodies::envelopes_are_read_without_touching_them,
        seeds: seeds::envelopes,
    },
    Claim {
        name: "notifications_come_back_as_written",
        check: bodies::notifications_come_back_as_written,
        seeds: seeds::notifications,
    },
    Claim {
        name: "multipart_bodies_are_cut_within_their_octets",
        check: bodies::multipart_is_cut_within_its_octets,
        seeds: seeds::multiparts,
    },
    Claim {
        name: "dates_come_back_as_written",
        check: bodies::dates_come_back_as_written,
        seeds: seeds::dates,
    },
    Claim {
        name: "kept_records_are_read_soundly",
        check: kept::records_are_read_soundly,
        seeds: seeds::records,
    },
    Claim {
        name: "configuration_comes_back_as_written",
        check: kept::configuration_comes_back_as_written,
        seeds: seeds::configurations,
    },
    Claim {
        name: "served_user_keeps_the_order",
        check: served_user::keeps_the_order,
        seeds: seeds::choices,
    },
    Claim {
        name: "shard_core_survives_anything",
        check: core::survives_anything,
        seeds: seeds::stories,
    },
];
