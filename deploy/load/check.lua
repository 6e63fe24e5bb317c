-- Shared by the scripts beside it: makes the requests, remembers what each was answered the first time, and gives a verdict.
--
--     wrk -t2 -c32 -d10s --timeout 60s --latency -s deploy/load/completions.lua http://127.0.0.1:8080 -- max_tokens=32
--
-- Every request carries its number as x-request-id, which the server sends back: so an answer is known by its request,
-- although wrk does not tell. wrk itself never fails: `done` ends it with code 1 when an answer was wrong.

local check = { settings = {} }
local threads = {}

good, bad, tokens, first_fault = 0, 0, 0, ""  -- global: wrk reads them from each thread's state at the end
seen = {}                                     -- request number -> what the answer must be

-- key=value words behind `--` on wrk's command line
function check.read_settings(args, defaults)
   for key, value in pairs(defaults) do check.settings[key] = value end
   for _, word in ipairs(args) do
      local key, value = word:match("^([%w_]+)=(.*)$")
      if not key or (defaults[key] == nil and key ~= "key") then
         error("not a setting of this script: " .. word)
      end
      check.settings[key] = tonumber(value) or value
   end
   return check.settings
end

-- n ordinary token ids as JSON, the same for one seed everywhere
function check.ids(seed, n)
   local state, list = (seed * 7919 + 17) % 2147483647, {}
   for i = 1, n do
      state = (state * 48271) % 2147483647
      list[i] = 300 + state % 5500
   end
   return "[" .. table.concat(list, ",") .. "]"
end

function check.format(number, method, path, body)
   local headers = { ["x-request-id"] = "load-" .. number, ["Content-Type"] = "application/json" }
   if check.settings.key then headers["Authorization"] = "Bearer " .. check.settings.key end
   return wrk.format(method, path, headers, body)
end

function check.number(headers)
   for name, value in pairs(headers) do
      if name:lower() == "x-request-id" then return tonumber(value:match("^load%-(%d+)$")) end
   end
end

function check.fault(text)
   bad = bad + 1
   if first_fault == "" then first_fault = text end
end

-- The answer to one request must be the same every time.
function check.same(number, text)
   if seen[number] == nil then
      seen[number] = text
   elseif seen[number] ~= text then
      return check.fault("request " .. number .. " was answered differently: " .. text:sub(1, 200))
   end
   good = good + 1
end

function check.setup(thread)
   thread:set("thread_number", #threads)
   table.insert(threads, thread)
end

-- Sums the threads' counts, compares their answers with each other, prints, and ends wrk with the verdict.
function check.done(summary, latency)
   local sum = { good = 0, bad = 0, tokens = 0 }
   local fault, all = "", {}
   for _, thread in ipairs(threads) do
      for name in pairs(sum) do sum[name] = sum[name] + thread:get(name) end
      if fault == "" then fault = thread:get("first_fault") end
      for number, text in pairs(thread:get("seen")) do
         if all[number] == nil then all[number] = text end
         if all[number] ~= text then
            sum.bad = sum.bad + 1
            fault = "request " .. number .. " was answered differently to two threads"
         end
      end
   end
   local e, seconds = summary.errors, summary.duration / 1e6
   print(string.format("answers: %d right, %d wrong, %.1f tokens/s", sum.good, sum.bad, sum.tokens / seconds))
   print(string.format("latency of whole answers: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms", latency:percentile(50) / 1e3,
      latency:percentile(90) / 1e3, latency:percentile(99) / 1e3))
   if e.connect + e.read + e.write + e.timeout > 0 then
      fault = string.format("errors of the socket: %d connect, %d read, %d write, %d timeout", e.connect, e.read, e.write, e.timeout)
   end
   if fault == "" and sum.good == 0 then fault = "nothing was answered" end
   print(fault == "" and "verdict: ok" or "verdict: failed: " .. fault)
   io.stdout:flush()
   if fault ~= "" then os.exit(1) end
end

return check
