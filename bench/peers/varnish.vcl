vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "@ORIGIN@"; .max_connections = 256; }
sub vcl_backend_response {
  # What Varnish's manual advises: bans on what the object holds can be tested in the background by its lurker.
  set beresp.http.x-url = bereq.url;
}
sub vcl_deliver {
  unset resp.http.x-url;
  if (obj.hits > 0) { set resp.http.X-Cache = "HIT"; } else { set resp.http.X-Cache = "MISS"; }
}
