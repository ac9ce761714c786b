-- Asks for HITS_OBJECTS objects of HITS_HOST at random: /h/0, /h/1, ...
local count = tonumber(os.getenv("HITS_OBJECTS"))
local requests = {}
function init(args)
  wrk.headers["Host"] = os.getenv("HITS_HOST")
  for i = 0, count - 1 do requests[i] = wrk.format("GET", "/h/" .. i) end
  math.randomseed(7)
end
local random = math.random
function request() return requests[random(0, count - 1)] end
