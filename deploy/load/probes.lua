-- What load balancers and dashboards ask. Setting: paths (separated by commas), key.
package.path = (debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "?.lua;" .. package.path
local check = require("check")

local texts, at = {}, 0

setup, done = check.setup, check.done

function init(args)
   local settings = check.read_settings(args, { paths = "/health,/ready,/version,/v1/models" })
   for path in settings.paths:gmatch("[^,]+") do table.insert(texts, check.format(#texts + 1, "GET", path, nil)) end
end

function request()
   at = at + 1
   return texts[at % #texts + 1]
end

function response(status, headers, body)
   if status ~= 200 or not check.number(headers) then return check.fault("status " .. status .. ": " .. body:sub(1, 200)) end
   if #body == 0 then return check.fault("an empty answer") end
   good = good + 1
end
