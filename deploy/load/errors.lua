-- Requests that must be refused, each with its own status and an error object that says why. wrk prints their number as
-- "Non-2xx or 3xx responses": here that is what is wanted.
package.path = (debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "?.lua;" .. package.path
local check = require("check")

local cases, texts, at = {
   { 400, "POST", "/v1/completions", "{" },
   { 400, "POST", "/v1/completions", "{}" },
   { 400, "POST", "/v1/completions", '{"prompt":"x","temperature":9}' },
   { 400, "POST", "/v1/completions", '{"prompt":"x","n":1000000}' },
   { 400, "POST", "/v1/completions", '{"prompt":[4000000]}' },
   { 400, "POST", "/v1/completions", '{"prompt":' .. string.rep("[", 1000) .. string.rep("]", 1000) .. "}" },
   { 404, "POST", "/v1/completions", '{"model":"no-such-model","prompt":"x"}' },
   { 404, "GET", "/v1/nothing", nil },
   { 405, "GET", "/v1/completions", nil },
}, {}, 0

setup, done = check.setup, check.done

function init(args)
   check.read_settings(args, {})
   for i, case in ipairs(cases) do texts[i] = check.format(i, case[2], case[3], case[4]) end
end

function request()
   at = at + 1
   return texts[at % #texts + 1]
end

function response(status, headers, body)
   local number = check.number(headers)
   if not number then return check.fault("no x-request-id with status " .. status) end
   if status ~= cases[number][1] then return check.fault("request " .. number .. " got status " .. status .. ": " .. body:sub(1, 200)) end
   if not body:match('^{"error":{.*"message":"[^"]') then return check.fault("no error object: " .. body:sub(1, 200)) end
   check.same(number, body)
end
