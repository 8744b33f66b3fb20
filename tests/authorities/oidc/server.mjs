// oidc-provider with rotating refresh tokens and what the suite needs to set scenes and to count. Prints its address
// once it listens, on a loopback port that is free.
//
//   POST /_test/clients               a client of a case's own; answers its identifier
//   GET  /_test/clients/ID            its token calls so far
//   POST /_test/clients/ID/expire     its access tokens have expired
//   POST /_test/clients/ID/code       an authorization code of alice's for this challenge
//
// Resources: /me is the provider's own and refuses with 401, /forbidden refuses with 403.
import crypto from 'node:crypto';
import http from 'node:http';
import Provider from 'oidc-provider';

const SECRET = 'not-a-secret';
const PASSWORD = 'not-a-password';
const REDIRECT = 'https://app.invalid/callback';
const SCOPE = 'openid offline_access';

const counts = new Map();
const stored = new Map();
const grants = new Map();

// The adapter that comes with the provider forgets the oldest of its entries when there are many.
class Memory {
  constructor(model) {
    this.model = model;
  }

  static key(model, id) {
    return `${model}:${id}`;
  }

  async upsert(id, payload) {
    const key = Memory.key(this.model, id);
    stored.set(key, payload);
    if (payload.grantId) grants.set(payload.grantId, (grants.get(payload.grantId) ?? new Set()).add(key));
  }

  async find(id) {
    return stored.get(Memory.key(this.model, id));
  }

  async consume(id) {
    stored.get(Memory.key(this.model, id)).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    stored.delete(Memory.key(this.model, id));
  }

  async revokeByGrantId(grantId) {
    for (const key of grants.get(grantId) ?? []) if (key.startsWith(`${this.model}:`)) stored.delete(key);
  }
}

function addClient() {
  const id = `case-${counts.size + 1}`;
  counts.set(id, { logins: 0, refreshes: 0, refused: 0 });
  stored.set(Memory.key('Client', id), {
    client_id: id,
    client_secret: SECRET,
    grant_types: ['authorization_code', 'refresh_token', 'password'],
    redirect_uris: [REDIRECT],
  });
  return id;
}

function expire(clientId) {
  for (const [key, payload] of stored) {
    if (key.startsWith('AccessToken:') && payload.clientId === clientId) payload.exp = 1;
  }
}

// What a login in a browser would leave behind.
async function granted(provider, clientId) {
  const grant = new provider.Grant({ clientId, accountId: 'alice' });
  grant.addOIDCScope(SCOPE);
  return { client: await provider.Client.find(clientId), accountId: 'alice', grantId: await grant.save(), scope: SCOPE };
}

async function code(provider, clientId, challenge) {
  const code = new provider.AuthorizationCode({
    ...(await granted(provider, clientId)),
    redirectUri: REDIRECT,
    codeChallenge: challenge,
    codeChallengeMethod: 'S256',
  });
  return code.save();
}

function newProvider(issuer) {
  const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
  const provider = new Provider(issuer, {
    adapter: Memory,
    cookies: { keys: [SECRET] },
    features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    jwks: { keys: [privateKey.export({ format: 'jwk' })] },
    rotateRefreshToken: true,
    routes: { revocation: '/revoke' },
    ttl: { AccessToken: 3600, AuthorizationCode: 60, Grant: 86400, IdToken: 3600, RefreshToken: 86400 },
  });
  // A login without a browser.
  const login = async (ctx) => {
    const { client, params } = ctx.oidc;
    if (params.username !== 'alice' || params.password !== PASSWORD) {
      ctx.status = 400;
      ctx.body = { error: 'invalid_grant' };
      return;
    }
    const token = await granted(provider, client.clientId);
    ctx.body = {
      access_token: await new provider.AccessToken({ ...token, gty: 'password' }).save(),
      refresh_token: await new provider.RefreshToken({ ...token, gty: 'password' }).save(),
      expires_in: 3600,
      token_type: 'Bearer',
    };
  };
  provider.registerGrantType('password', login, ['username', 'password']);
  provider.on('grant.success', ({ oidc }) => {
    counts.get(oidc.client.clientId)[oidc.params.grant_type === 'refresh_token' ? 'refreshes' : 'logins'] += 1;
  });
  provider.on('grant.error', ({ oidc }) => {
    counts.get(oidc.client.clientId).refused += 1;
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  return provider;
}

async function forbidden(provider, request, answer) {
  const token = /^Bearer (.+)$/i.exec(request.headers.authorization)?.[1];
  const known = await provider.AccessToken.find(token);
  if (known) answer(200, { sub: known.accountId });
  else answer(403, {}, { 'www-authenticate': 'Bearer error="invalid_token"' });
}

async function control(provider, [id, verb], query, answer) {
  if (verb === 'expire') expire(id);
  if (!id) answer(200, addClient());
  else if (verb === 'code') answer(200, await code(provider, id, query.get('challenge')));
  else answer(200, counts.get(id));
}

const server = http.createServer();
server.listen(0, '127.0.0.1', () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  const provider = newProvider(address);
  const oidc = provider.callback();
  server.on('request', (request, response) => {
    const answer = (status, body, headers = {}) => {
      response.writeHead(status, { 'content-type': 'application/json', ...headers });
      response.end(JSON.stringify(body));
    };
    const { pathname, searchParams } = new URL(request.url, address);
    if (pathname.startsWith('/_test/clients')) control(provider, pathname.split('/').slice(3), searchParams, answer);
    else if (pathname === '/forbidden') forbidden(provider, request, answer);
    else oidc(request, response);
  });
  console.log(address);
});
