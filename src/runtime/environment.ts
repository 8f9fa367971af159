// What of the environment a process of ours that runs Node gets. bin/snapswitch removes the same before Node starts.

/** Options of Node, files that it loads or writes, threads of libuv, and the key log and plug-ins of OpenSSL. */
const READ_BY_NODE = /^(NODE|UV)_|^OPENSSL_(CONF|MODULES|ENGINES)$|^SSLKEYLOGFILE$/

export function environmentForNode(from: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(from).filter(([name]) => !READ_BY_NODE.test(name)))
}
