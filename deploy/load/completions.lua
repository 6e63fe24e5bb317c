-- Completions in one piece. Settings: requests (different ones), prompt_tokens, max_tokens, key.
package.path = (debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "?.lua;" .. package.path
local check = require("check")

local settings, texts, at = nil, {}, 0

setup, done = check.setup, check.done

function init(args)
   settings = check.read_settings(args, { requests = 64, prompt_tokens = 32, max_tokens = 16 })
   for i = 1, settings.requests do
      local body = string.format('{"prompt":%s,"max_tokens":%d,"temperature":%d,"seed":%d,"ignore_eos":true,"return_token_ids":true}',
         check.ids(i, settings.prompt_tokens), settings.max_tokens, i % 2, i)
      texts[i] = check.format(i, "POST", "/v1/completions", body)
   end
   at = thread_number * 7
end

function request()
   at = at + 1
   return texts[at % #texts + 1]
end

function response(status, headers, body)
   local number = check.number(headers)
   if status ~= 200 or not number then return check.fault("status " .. status .. ": " .. body:sub(1, 200)) end
   local choices = body:match('"choices":(.*),"usage":')
   local count = tonumber(body:match('"completion_tokens":(%d+)'))
   if not choices or count ~= settings.max_tokens or not choices:find('"finish_reason":"length"', 1, true) then
      return check.fault("not a whole answer: " .. body:sub(1, 200))
   end
   tokens = tokens + count
   check.same(number, choices)
end
