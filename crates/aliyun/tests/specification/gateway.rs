//! What the gateway answers to a call of any action.

use aliyun::Refusal;

/// Codes of the gateway that are not answered, each with its reason.
pub(crate) const OTHER_WORDS: [(&str, &str); 1] = [(
    "Throttling.Api",
    "an action that is called too often is answered 503 Throttling, as the pages of the actions say",
)];

/// Everything that the gateway can answer but success.
pub(crate) fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::missing("Action"),
        Refusal::missing("ObjectPath"),
        Refusal::missing_for_action("AccessKeyId"),
        Refusal::missing_for_action("SecurityToken"),
        Refusal::illegal_timestamp(),
        Refusal::timestamp_expired(),
        Refusal::timestamp_format(),
        Refusal::nonce_used(),
        Refusal::key_not_found(),
        Refusal::key_inactive(),
        Refusal::token_expired(),
        Refusal::token_malformed(),
        Refusal::token_mismatch(),
        Refusal::invalid_version(),
        Refusal::action_not_found(),
        Refusal::unsupported(),
        Refusal::throttled_user(),
        Refusal::throttled(),
        Refusal::forbidden(),
        Refusal::internal(),
        Refusal::unavailable(),
    ]
}
