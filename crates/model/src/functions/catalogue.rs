//! The functions that clients know: number, whether a domain may have several of them, and whether they are
//! implemented.

/// The properties of a function name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it is called.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// Setting it again adds another one instead of replacing the existing one.
    pub many: bool,
    /// Its arguments are interpreted here. A function that is not implemented is kept and has no effect.
    pub built: bool,
}

const fn kind(name: &'static str, number: u32, many: bool, built: bool) -> Kind {
    Kind { name, number, many, built }
}

const KINDS: [Kind; 55] = [
    kind("referer_white_list_set", 1, false, true),
    kind("referer_black_list_set", 5, false, true),
    kind("filetype_based_ttl_set", 6, true, true),
    kind("path_based_ttl_set", 7, true, true),
    kind("oss_auth", 10, false, false),
    kind("ip_black_list_set", 13, false, true),
    kind("error_page", 15, true, false),
    kind("tesla", 16, false, false),
    kind("set_req_host_header", 18, false, true),
    kind("set_hashkey_args", 19, false, true),
    kind("aliauth", 25, false, true),
    kind("set_resp_header", 27, true, true),
    kind("video_seek", 30, false, false),
    kind("range", 31, false, true),
    kind("gzip", 35, false, true),
    kind("set_req_header", 39, true, true),
    kind("host_redirect", 43, true, true),
    kind("https_force", 44, false, true),
    kind("http_force", 45, false, true),
    kind("forward_scheme", 47, false, true),
    kind("rewrite_host", 54, false, true),
    kind("ali_ua", 58, false, false),
    kind("filetype_force_ttl_code", 63, true, true),
    kind("path_force_ttl_code", 65, true, true),
    kind("ip_allow_list_set", 69, false, true),
    kind("limit_rate", 72, true, false),
    kind("ali_remove_args", 75, false, true),
    kind("https_option", 78, false, true),
    kind("l2_oss_key", 85, false, false),
    kind("brotli", 97, false, false),
    kind("https_tls_version", 110, false, true),
    kind("HSTS", 112, false, false),
    kind("https_origin_sni", 114, false, true),
    kind("forward_timeout", 124, false, true),
    kind("edge_function", 180, true, false),
    kind("aws_s3_bucket", 186, false, false),
    kind("default_ttl_code", 207, false, true),
    kind("origin_dns_host", 212, true, false),
    kind("follow_302", 219, false, true),
    kind("back_to_origin_argument_rewrite", 224, false, true),
    kind("back_to_origin_url_rewrite", 225, true, true),
    kind("self_defined_cachekey", 227, false, true),
    kind("origin_request_header", 228, true, true),
    kind("origin_response_header", 229, true, true),
    kind("advanced_origin", 235, true, false),
    kind("origin_host", 242, true, true),
    kind("condition", 250, true, false),
    kind("hls_token_rewrite", 253, false, false),
    kind("cdn_remote_auth", 258, false, false),
    kind("serving_stale_content", 260, false, true),
    kind("ipv6_origin", 265, false, false),
    kind("ali_origin_port_scheme", 276, true, false),
    kind("cos_auth", 288, false, false),
    kind("source_group", 294, true, false),
    // Our own, far above the vendor's numbers.
    kind("prefetch_limit", 100_001, false, true),
];

/// The function with this name, if known.
pub fn named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The function with this number, if known.
pub fn numbered(number: u32) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.number == number)
}
