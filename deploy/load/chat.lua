-- Chats. Settings: requests (different ones), max_tokens, stream (0: in one piece, 1: streamed), key.
package.path = (debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "?.lua;" .. package.path
local check = require("check")

local topics = { "rivers", "the sea", "bread", "a city in the north", "old ships", "gold", "winter", "stone houses" }
local settings, texts, at = nil, {}, 0

setup, done = check.setup, check.done

function init(args)
   settings = check.read_settings(args, { requests = 64, max_tokens = 16, stream = 0 })
   for i = 1, settings.requests do
      local body = string.format('{"messages":[{"role":"system","content":"Answer briefly."},{"role":"user","content":' ..
         '"Say %d things about %s."}],"max_tokens":%d,"temperature":%d,"seed":%d,"ignore_eos":true%s}',
         i, topics[i % #topics + 1], settings.max_tokens, i % 2, i,
         settings.stream == 1 and ',"stream":true,"stream_options":{"include_usage":true}' or "")
      texts[i] = check.format(i, "POST", "/v1/chat/completions", body)
   end
   at = thread_number * 7
end

function request()
   at = at + 1
   return texts[at % #texts + 1]
end

local function whole(body)
   local choices = body:match('"choices":(.*),"usage":')
   return choices and choices:find('"finish_reason":"length"', 1, true) and choices
end

local function streamed(body)
   local pieces = {}
   for choice in body:gmatch('"choices":%[([^\n]*)%],"usage":null') do table.insert(pieces, choice) end
   return #pieces > 0 and body:sub(-14) == "data: [DONE]\n\n" and table.concat(pieces, "\n")
end

function response(status, headers, body)
   local number = check.number(headers)
   if status ~= 200 or not number then return check.fault("status " .. status .. ": " .. body:sub(1, 200)) end
   local count = tonumber(body:match('"completion_tokens":(%d+)'))
   local choices = settings.stream == 1 and streamed(body) or settings.stream ~= 1 and whole(body)
   if not choices or count ~= settings.max_tokens then return check.fault("not a whole answer: " .. body:sub(-200)) end
   tokens = tokens + count
   check.same(number, choices)
end
