-- Prompts scored as evaluation harnesses do it: echo, logprobs, no token generated. Settings: requests, prompt_tokens, key.
package.path = (debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "?.lua;" .. package.path
local check = require("check")

local settings, texts, at = nil, {}, 0

setup, done = check.setup, check.done

function init(args)
   settings = check.read_settings(args, { requests = 64, prompt_tokens = 64 })
   for i = 1, settings.requests do
      local body = string.format('{"prompt":[%s],"max_tokens":0,"temperature":0,"echo":true,"logprobs":1}',
         check.ids(i, settings.prompt_tokens))
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
   local scores, n = body:match('"token_logprobs":%[(.-)%]'), 0
   for _ in (scores or ""):gmatch("[^,]+") do n = n + 1 end
   if n ~= settings.prompt_tokens or scores:sub(1, 5) ~= "null," then
      return check.fault(n .. " scores for " .. settings.prompt_tokens .. " tokens: " .. body:sub(1, 200))
   end
   tokens = tokens + n
   check.same(number, scores)
end
