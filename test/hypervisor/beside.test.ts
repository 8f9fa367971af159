// A machine beside its former self: what keeps it from that, which sockets change places, and taps handed over as
// descriptors.

import t from 'tap'
import { besidePath, heldAlone, listeningPaths, namePath, withGivenPaths } from '../../src/hypervisor/qemu/beside.js'
import { commandLineFor } from '../../src/hypervisor/qemu/command-line.js'
import { tapNeeds } from '../../src/hypervisor/qemu/nics.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'

const definitionOf = (...args: string[]): QemuDefinition => ({
  kind: 'qemu',
  name: 'web',
  memoryBytes: 1,
  nics: [],
  hypervisorVersion: '7.2.0',
  argv: ['qemu-system-x86_64', ...args],
  directory: '/run/lab',
})

t.test('what can be had only once is named', async (t) => {
  const held: [string, string][] = [
    ['-vnc', ':1'],
    ['-vnc', '127.0.0.1:7,password=on'],
    ['-spice', 'port=5900,disable-ticketing=on'],
    ['-gdb', 'tcp::1234'],
    ['-serial', 'tcp:0.0.0.0:4444,server=on,wait=off'],
    ['-monitor', 'telnet:127.0.0.1:5555,server,nowait'],
    ['-qmp', 'tcp:localhost:4445,server=on,wait=off'],
    ['-chardev', 'socket,id=c,host=localhost,port=7,server=on,wait=off'],
    ['-netdev', 'user,id=n,hostfwd=tcp::2222-:22'],
    ['-netdev', 'socket,id=n,listen=:1234'],
    ['-netdev', 'socket,id=n,udp=10.0.0.2:5,localaddr=:6'],
    ['-netdev', 'dgram,id=n,local.type=unix,local.path=/run/a,remote.type=unix,remote.path=/run/b'],
    ['-object', 'memory-backend-file,id=m,size=1G,mem-path=/dev/shm/web,share=on'],
  ]
  for (const [option, value] of held) {
    t.same(heldAlone(definitionOf(option, value)), [`${option} ${value}`])
  }
  t.same(heldAlone(definitionOf('-s')), ['-s'])
  const free: [string, string][] = [
    ['-vnc', 'none'],
    ['-vnc', 'unix:/run/lab/vnc'],
    ['-spice', 'unix=on,addr=/run/lab/spice,disable-ticketing=on'],
    ['-serial', 'tcp:logs:4444'],
    ['-chardev', 'socket,id=c,path=/run/lab/c,server=on,wait=off'],
    ['-netdev', 'user,id=n'],
    ['-netdev', 'socket,id=n,mcast=230.0.0.1:1234,localaddr=10.0.0.1'],
    ['-netdev', 'socket,id=n,connect=10.0.0.1:1234'],
    ['-object', 'memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages,share=on'],
  ]
  for (const [option, value] of free) t.same(heldAlone(definitionOf(option, value)), [], `${option} ${value}`)
})

t.test('sockets get other paths until the former self has ended', async (t) => {
  const definition = definitionOf(
    ...['-serial', 'unix:/run/lab/web.serial,server=on,wait=off', '-monitor', 'unix:mon,server,nowait'],
    ...[
      '-chardev',
      'socket,id=c,path=/run/lab/agent,server=on,wait=off',
      '-chardev',
      'socket,id=d,path=/run/lab/client',
    ],
    ...['-vnc', 'unix:/run/lab/vnc,,1,password=on', '-spice', 'unix=on,addr=/run/lab/spice,disable-ticketing=on'],
    ...['-vnc', 'none', '-spice', 'addr=127.0.0.1,port=0', '-vnc', 'unix:/run/lab/viewer,reverse=on'],
  )
  const paths = ['/run/lab/web.serial', 'mon', '/run/lab/agent', '/run/lab/vnc,1', '/run/lab/spice']
  t.same(
    listeningPaths(definition).map(({ given }) => given),
    paths,
  )
  t.equal(listeningPaths(definition)[1]?.file, '/run/lab/mon')
  const next = { taps: [], disks: [], qmp: '/state/qmp.sock', directory: '/state', exists: () => true }
  const own = commandLineFor(definition, { ...next, beside: true }).join(' ')
  for (const path of paths) {
    t.match(own, besidePath(path, '/state'))
    t.notMatch(own, `${path},`)
  }
  for (const path of ['path=/run/lab/client', 'unix:/run/lab/viewer,'])
    t.match(own, path, 'one that it connects to stays')
  const [vnc, spice] = paths.slice(3).map((given) => besidePath(given, '/state'))
  t.match(own, `-vnc unix:${vnc},password=on -spice unix=on,addr=${spice},disable-ticketing=on `)
  const names = new Map(paths.map((given) => [namePath(besidePath(given, '/state')), given]))
  const started = commandLineFor(definition, { ...next, beside: true })
  const again = withGivenPaths(started, (socket) => names.get(namePath(socket)) ?? null)
  t.same(again, commandLineFor(definition, next), 'the next one’s sockets get the same names')
  t.same(
    withGivenPaths(started, () => null),
    started,
  )
  t.match(commandLineFor(definition, next).join(' '), 'unix:/run/lab/web.serial,server')
})

t.test('what QEMU would empty stays, and so does what goes to a log beside a socket', async (t) => {
  const definition = definitionOf(
    ...['-D', '/run/lab/d.log', '-trace', 'enable=x,file=/run/lab/t.log', '-trace', 'y'],
    ...['-object', 'filter-dump,id=f,netdev=n,file=/run/lab/n.pcap', '-object', 'rng-builtin,id=r'],
    ...['-object', '{"qom-type":"filter-dump","id":"g","netdev":"n","file":"other/n.pcap"}'],
    ...['-audiodev', 'wav,id=a,path=/run/lab/a.wav', '-audiodev', 'wav,id=b', '-audiodev', 'pa,id=c'],
    ...['-debugcon', 'file:/run/lab/debug', '-chardev', 'file,id=own,path=/run/lab/own'],
    ...['-chardev', 'socket,id=c,path=/run/lab/c,server=on,logfile=/run/lab/c.log'],
  )
  const next = { taps: [], disks: [], qmp: '/q', directory: '/state', exists: () => true }
  const common =
    '-D /state/d.log -trace enable=x,file=/state/t.log -trace y ' +
    '-object filter-dump,id=f,netdev=n,file=/state/f.pcap -object rng-builtin,id=r ' +
    '-object {"qom-type":"filter-dump","id":"g","netdev":"n","file":"/state/g.pcap"} ' +
    '-audiodev wav,id=a,path=/state/a.wav -audiodev wav,id=b,path=/state/qemu.wav -audiodev pa,id=c ' +
    '-chardev file,id=debugcon,path=/run/lab/debug,append=on -debugcon chardev:debugcon ' +
    '-chardev file,id=own,path=/run/lab/own,append=on -chardev socket,id=c,path='
  const logs = ',server=on,logfile=/run/lab/c.log,logappend=on'
  const edited = (beside: boolean) =>
    commandLineFor(definition, { ...next, beside })
      .slice(1, -5)
      .join(' ')
  t.equal(edited(false), `${common}/run/lab/c${logs}`)
  t.equal(edited(true), `${common}${besidePath('/run/lab/c', '/state')}${logs}`)
  const tried = commandLineFor(definition, { ...next, rehearsal: true })
    .slice(1, -5)
    .join(' ')
  t.notMatch(tried, '/run/lab', 'nor does one that is only tried write there')
  t.match(tried, 'file=/state/f.pcap')
})

t.test('taps as descriptors, one a queue', async (t) => {
  const definition = definitionOf(
    ...['-netdev', 'tap,id=n0,ifname=tap0,script=no,downscript=no,vnet_hdr=off', '-device', 'virtio-net-pci,netdev=n0'],
    ...['-netdev', 'tap,id=n1,ifname=tap1,queues=2,vhost=on', '-device', 'virtio-net-pci,netdev=n1,mq=on'],
  )
  t.same(tapNeeds(definition.argv), [
    { queues: 1, vnetHeader: false },
    { queues: 2, vnetHeader: true },
  ])
  const taps = [{ descriptors: [3] }, { descriptors: [4, 5] }]
  const argv = commandLineFor(definition, { taps, disks: [], qmp: '/q', directory: '/state', exists: () => true })
  const netdevs = argv.filter((_, at) => argv[at - 1] === '-netdev')
  t.same(netdevs, ['tap,id=n0,fd=3', 'tap,id=n1,vhost=on,fds=4:5'])
})
