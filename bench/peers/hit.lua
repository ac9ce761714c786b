-- Asks for HIT_OBJECTS objects of HIT_HOST at random, HIT_PATH with a number behind it, and says what came of it in one line.
local count = tonumber(os.getenv("HIT_OBJECTS"))
local requests = {}
function init(args)
  wrk.headers["Host"] = os.getenv("HIT_HOST")
  for i = 0, count - 1 do requests[i] = wrk.format("GET", os.getenv("HIT_PATH") .. i) end
  math.randomseed(7)
end
local random = math.random
function request() return requests[random(0, count - 1)] end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("HIT requests=%d bytes=%d micros=%d p50=%d p99=%d failed=%d\n", summary.requests, summary.bytes,
    summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout + e.status))
end
