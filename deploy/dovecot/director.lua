-- Asks go-dovecot-director which backend a user belongs to. For the proxies of Dovecot 2.3 and 2.4 alike.
--
-- Install: put this file where 2.3/proxy.conf or 2.4/proxy.conf names it, with the packages dovecot-auth-lua and
-- lua-cjson, and set the URL:

local DIRECTOR_URL = "http://go-dovecot-director.mail.svc.cluster.local:8080"

-- If the director asks for a token (its LOOKUP_TOKEN_FILE): a file that holds it, as "/etc/dovecot/director.token", and that
-- nobody but the user of the auth-workers may read. For TLS, let the URL begin with https, and see proxy.conf.

local TOKEN_FILE = nil

-- Who checks the password: the backend. A good answer says nopassword, so this proxy believes the user, forwards the
-- password to the backend and shows the client what the backend says. This script never sends the password anywhere.
--
-- What goes wrong here must look like an outage ("try later"), never like a wrong password or an unknown user: mail
-- programs ask for the password again, and mail servers bounce mail. And it must not reach Dovecot in a form that
-- crashes it, with all logins in flight. Hence the guards below; what each one prevents was seen on 2.3.19.1 and 2.4.1.

local cjson = require "cjson.safe"

-- The codes that each lookup may answer: 1 to -6 and 1, -1, -2. A code outside of its own table aborts the auth-worker
-- in both versions ("Panic: ... unreached"), and the tables differ: "unknown user" is -3 to a passdb and -2 to a userdb
-- (src/auth/passdb.h, src/auth/userdb.h).
local OK, INTERNAL_FAILURE, PASSDB_USER_UNKNOWN, USERDB_USER_UNKNOWN = 1, -1, -3, -2
local PASSDB = { path = "/auth_passdb_lookup", lowest = -6, not_in_table = {} }
local USERDB = { path = "/auth_userdb_lookup", lowest = -2, not_in_table = { [0] = true } }

local client

-- The director answers within 3 s, so a silent one is given up after 3 s and asked once more, 6 s in all. Without these
-- limits both versions wait 60 s, twice, and each waiting login holds one of the proxy's 30 auth-workers.
-- 2.3 ignores names that it does not know (such as "timeout"), 2.4 raises an error: so 2.3's are tried first.
function script_init()
  local known, result = pcall(dovecot.http.client, {
    request_timeout_msecs = 3000,
    request_absolute_timeout_msecs = 6000,
    max_attempts = 2,
  })
  client = known and result or dovecot.http.client {
    request_timeout = "3 sec",
    request_absolute_timeout = "6 sec",
    request_max_attempts = 2,
  }
  return 0
end

function script_deinit()
end

-- what_is_wrong_with returns nil for a pair of name and value that Dovecot can take. An empty name aborts the auth-worker
-- (2.3: "auth_fields_add: assertion failed"); control characters belong in no field.
local function what_is_wrong_with(name, value)
  if type(name) ~= "string" or not name:find("^[%w_]+$") then
    return "a name that is no field of Dovecot's"
  elseif type(value) == "string" then
    return value:find("%c") and name .. " holds control characters" or nil
  elseif type(value) == "number" then
    return not math.tointeger(value) and name .. " is no integer" or nil
  elseif value ~= true then
    -- false counts as true in Dovecot, which looks for presence only; null arrives as userdata, objects are dropped.
    return name .. " is neither text nor number nor true"
  end
end

-- check_success returns the fields for Dovecot, or raises an error.
--   no proxy       a local login, of a user who belongs elsewhere
--   no nopassword  "wrong password" (log: "No password returned")
--   no host        2.3's imap-login segfaults, with all sessions of that process; 2.3's LMTP tries to deliver locally
--   empty host     the auth process aborts, in both versions
--   a name as host an extra DNS query that can fail; the director sends addresses only
local function check_success(attributes)
  if type(attributes) ~= "table" then
    error("success without attributes", 0)
  end
  local fields = {}
  for name, value in pairs(attributes) do
    local wrong = what_is_wrong_with(name, value)
    if wrong then
      error("success with " .. wrong, 0)
    end
    fields[name] = math.type(value) == "float" and math.tointeger(value) or value
  end
  local host, port = fields.host, fields.port
  if not fields.proxy or not fields.nopassword then
    error("success without proxy and nopassword", 0)
  elseif type(host) ~= "string" or not host:find("^[%x.:]+$") or not host:find("[.:]") then
    error("success without an address as host", 0)
  elseif port ~= nil and not (tostring(port):find("^[1-9]%d*$") and tonumber(port) <= 65535) then
    error("success with a port that is none", 0)
  end
  return fields
end

-- service_of returns imap, pop3, lmtp, ...: "service" in 2.3, "protocol" from 2.4 on.
local function service_of(request)
  return request.service or request.protocol
end

-- token returns the first one of the file, which may hold several like the director's, so that one file will do for both
-- while a token is replaced. It is read for each lookup: a new one counts at once.
local function token()
  local file, problem = io.open(TOKEN_FILE)
  local text = file and file:read(4096)
  if file then
    file:close()
  end
  local first = text and text:match("^%s*([!-~]+)")
  if not first then
    error("no token: " .. (problem or TOKEN_FILE .. " cannot be read or is empty"), 0)
  end
  return first
end

-- ask returns code and attributes, or raises an error with a string as text.
local function ask(kind, request)
  local http_request = client:request { url = DIRECTOR_URL .. kind.path, method = "POST" }
  http_request:add_header("Content-Type", "application/json")
  if TOKEN_FILE then
    http_request:add_header("Authorization", "Bearer " .. token())
  end
  http_request:set_payload(cjson.encode {
    user = request.user,
    service = service_of(request), -- lets the director answer with the port
    session = request.session,
    rip = request.remote_ip,
  })
  local response = http_request:submit()
  if response:status() ~= 200 then
    error("the director answers " .. response:status() .. " " .. tostring(response:reason()), 0)
  end

  local answer = cjson.decode(response:payload())
  if type(answer) ~= "table" then
    error("the director's answer is no JSON object", 0)
  end
  local code = type(answer.code) == "number" and math.tointeger(answer.code)
  if not code or code > OK or code < kind.lowest or kind.not_in_table[code] then
    error("the director answers a code that is none", 0)
  end
  if code ~= OK then
    -- 2.3 turns nil and 2.4 turns a table into an internal failure by themselves: a string is what both understand.
    -- It goes to the proxy's log, not to the client.
    if type(answer.attributes) ~= "string" then
      error("the director answers code " .. code .. " without a reason", 0)
    end
    return code, answer.attributes
  end
  return code, check_success(answer.attributes)
end

-- lookup is what Dovecot calls, with errors made temporary failures. The reason is one short line: it is logged.
local function lookup(kind, request)
  local asked, code, result = pcall(ask, kind, request)
  if not asked then
    code, result = INTERNAL_FAILURE, "director: " .. tostring(code)
  end
  if type(result) == "string" then
    result = result:gsub("%c", " "):sub(1, 400)
  end
  return code, result
end

function auth_passdb_lookup(request)
  return lookup(PASSDB, request)
end

-- LMTP asks a userdb only about users whom the passdb did not send to a backend. Only "unknown" may come of that, which
-- makes its reply a 550: success would deliver here, on the proxy. A userdb answer of the director is no proof that the
-- user exists, because it maps nobody; so the passdb is asked once more.
function auth_userdb_lookup(request)
  if service_of(request) ~= "lmtp" then
    return lookup(USERDB, request)
  end
  local code, result = lookup(PASSDB, request)
  if code == PASSDB_USER_UNKNOWN then
    return USERDB_USER_UNKNOWN, result
  elseif type(result) ~= "string" then
    result = "director: no local delivery on a proxy"
  end
  return INTERNAL_FAILURE, result
end
