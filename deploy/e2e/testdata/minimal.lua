-- A proxy script as administrators of Dovecot 2.3 write it from the documented contract: nothing but the lookup itself.
-- It works with a well-behaved director; ../../dovecot/director.lua says what else a script should see to.
local json = require "cjson"

local DIRECTOR_URL = "http://localhost:8080"
local http = dovecot.http.client { timeout = 5000, max_attempts = 2 }

local function ask(path, user)
  local lookup = http:request { url = DIRECTOR_URL .. path, method = "POST" }
  lookup:set_payload(json.encode { user = user })
  local response = lookup:submit()
  if response:status() ~= 200 then
    error("director: HTTP status " .. response:status())
  end
  local answer = json.decode(response:payload())
  return answer.code, answer.attributes
end

function auth_passdb_lookup(request)
  return ask("/auth_passdb_lookup", request.user)
end

function auth_userdb_lookup(request)
  return ask("/auth_userdb_lookup", request.user)
end
