// Taking QEMU command lines apart, and putting them together for a machine's next incarnation.

import t from 'tap'
import type { QemuDefinition } from '../../src/hypervisor/hypervisor.js'
import { checkCommandLine, commandLineFor } from '../../src/hypervisor/qemu-command-line.js'
import { backingTree, findDriveArguments, findNode, readBlockDevices } from '../../src/hypervisor/qemu-disks.js'
import { listNics, parseInfoNetwork, tapArguments } from '../../src/hypervisor/qemu-nics.js'
import { joinArguments, OptionValue, splitArguments } from '../../src/hypervisor/qemu-options.js'
import { protectedRanges } from '../../src/hypervisor/write-protection.js'
import fc from '../property.js'

const words = (line: string) => line.split(' ')

t.test('arguments', (t) => {
  const argv = words('qemu -S -m 64 --nographic disk.img -append root=/dev/vda -snapshot -name')
  t.same(
    splitArguments(argv).map(({ option, value }) => [option, value]),
    [
      ['S', null],
      ['m', '64'],
      ['nographic', null],
      ['', 'disk.img'],
      ['append', 'root=/dev/vda'],
      ['snapshot', null],
      ['name', null],
    ],
  )
  for (const { value, index } of splitArguments(argv)) if (value !== null) t.equal(argv[index], value)
  const option = fc.constantFrom('S', 'm', 'drive', 'device', 'nographic', 'name', 'append')
  const value = fc.string().filter((text) => !text.startsWith('-'))
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(fc.tuple(option, value)), (pairs) => {
        const wanted = pairs.map(([name, text], index) => ({
          option: name,
          value: name === 'S' || name === 'nographic' ? null : text,
          index,
        }))
        const again = splitArguments(joinArguments('qemu', wanted))
        return (
          JSON.stringify(again.map((a) => [a.option, a.value])) ===
          JSON.stringify(wanted.map((a) => [a.option, a.value]))
        )
      }),
    ),
  )
  t.end()
})

t.test('option values', (t) => {
  const value = new OptionValue('tap,id=net0,ifname=a,,b,script=no,vhost', 'type')
  t.same(
    ['type', 'id', 'ifname', 'vhost', 'x'].map((key) => value.get(key)),
    ['tap', 'net0', 'a,b', 'on', null],
  )
  value.set('ifname', 'c,d')
  value.remove('script')
  t.equal(value.toString(), 'tap,id=net0,ifname=c,,d,vhost')
  const json = new OptionValue('{"type":"tap","id":"net0","queues":2,"file":{"filename":"x"},"on":true}', 'type')
  t.same([json.get('type'), json.get('queues'), json.get('file.filename'), json.get('on')], ['tap', '2', 'x', 'on'])
  json.set('file.filename', 'y')
  json.remove('queues')
  t.same(JSON.parse(json.toString()), { type: 'tap', id: 'net0', file: { filename: 'y' }, on: true })
  t.equal(new OptionValue('{broken', null).get('x'), null)
  const key = fc.stringMatching(/^[a-z][a-z.-]{0,6}[a-z]$/)
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(fc.tuple(key, fc.string({ minLength: 1 })), { minLength: 1 }), (pairs) => {
        const text = pairs.map(([name, word]) => `${name}=${word.replaceAll(',', ',,')}`).join(',')
        const parsed = new OptionValue(text, null)
        const last = new Map(pairs)
        return parsed.toString() === text && [...last].every(([name, word]) => parsed.get(name) === word)
      }),
    ),
  )
  t.end()
})

t.test('taps in all their notations', (t) => {
  const argv = [
    'qemu',
    ...words('-netdev tap,id=n0,ifname=tap0,script=no -device virtio-net-pci,netdev=n0,mac=52:54:00:AA:00:01'),
    ...words('-nic tap,ifname=tap1,mac=52:54:00:aa:00:02,model=e1000 -nic user -netdev user,id=n9'),
    ...words(
      '-netdev {"type":"tap","id":"n3","fds":"10:11","vhost":true} -device {"driver":"virtio-net-pci","netdev":"n3"}',
    ),
    ...words('-netdev bridge,id=n4,br=br0,helper=/x -device e1000,netdev=n4,mac=52:54:00:aa:00:05'),
  ]
  t.same(
    tapArguments(argv).map(({ ifname, fd, netdev, mac, vhost }) => [ifname, fd, netdev, mac, vhost]),
    [
      ['tap0', null, 'n0', '52:54:00:aa:00:01', false],
      ['tap1', null, null, '52:54:00:aa:00:02', false],
      [null, 10, 'n3', null, true],
      [null, null, 'n4', '52:54:00:aa:00:05', false],
    ],
  )
  t.same(
    tapArguments(words('qemu -net nic,macaddr=52:54:00:aa:00:09 -net tap,ifname=old0')).map(({ ifname, mac }) => [
      ifname,
      mac,
    ]),
    [['old0', '52:54:00:aa:00:09']],
  )
  t.end()
})

t.test('info network', (t) => {
  const clients = parseInfoNetwork(
    [
      'virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56',
      ' \\ net0: index=0,type=tap,ifname=tap0,script=no,downscript=no',
      'e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57',
      ' \\ #net123: index=0,type=tap,fd=12',
      'hub 0',
      ' \\ hub0port1: tap.1: index=0,type=tap,ifname=tap2,script=no',
      'lonely: index=0,type=user,net=10.0.2.0,restrict=off',
      '',
    ].join('\r\n'),
  )
  t.same(
    clients.map(({ netdev, type, ifname, fd, mac }) => [netdev, type, ifname, fd, mac]),
    [
      ['net0', 'tap', 'tap0', null, '52:54:00:12:34:56'],
      ['#net123', 'tap', null, 12, '52:54:00:12:34:57'],
      ['tap.1', 'tap', 'tap2', null, null],
      ['lonely', 'user', null, null, null],
    ],
  )
  const argv = words('qemu -nic tap,fd=12 -netdev tap,id=net0,ifname=tap0')
  t.same(
    listNics(argv, clients, (fd) => `behind${fd}`),
    {
      nics: [
        { device: 'behind12', mac: '52:54:00:12:34:57' },
        { device: 'tap0', mac: '52:54:00:12:34:56' },
        { device: 'tap2', mac: null },
      ],
      added: ['tap2'],
    },
  )
  t.end()
})

const definition = (argv: string[], drives: QemuDefinition['drives'] = []): QemuDefinition => ({
  kind: 'qemu',
  name: 'vm0',
  argv,
  memoryBytes: 1,
  nics: [],
  hypervisorVersion: '7.2.0',
  drives,
})

const next = (over: Partial<Parameters<typeof commandLineFor>[1]> = {}) => ({
  taps: [],
  disks: [],
  qmp: '/run/new/qmp.sock',
  directory: '/run/new',
  exists: (directory: string) => !directory.startsWith('/gone'),
  ...over,
})

t.test('the next command line: what belongs to one incarnation is replaced', (t) => {
  const argv = words(
    'qemu -S -daemonize -pidfile /x -incoming tcp:0:1 -loadvm a -qmp unix:/old,server=on -m 64 ' +
      '-chardev socket,id=mon,path=/old2,server=on -mon chardev=mon,mode=control -chardev socket,id=c,path=/gone/c.sock ' +
      '-serial file:/gone/serial.log -serial unix:/kept/s.sock,server=on -monitor unix:/gone/m,server=on ' +
      '-nic tap,ifname=a,script=/etc/up -nic tap,fd=7,vhost=off -nic user',
  )
  const edited = commandLineFor(definition(argv), next({ taps: ['t0', 't1'] }))
  t.same(
    edited,
    words(
      'qemu -m 64 -chardev socket,id=c,path=/run/new/c.sock -serial file:/run/new/serial.log ' +
        '-serial unix:/kept/s.sock,server=on -monitor unix:/run/new/m,server=on ' +
        '-nic tap,ifname=t0,script=no,downscript=no -nic tap,vhost=off,ifname=t1,script=no,downscript=no -nic user ' +
        '-qmp unix:/run/new/qmp.sock,server=on,wait=off -S -incoming defer',
    ),
  )
  t.same(
    commandLineFor(definition(edited), next({ taps: ['t0', 't1'] })),
    edited,
    'the same again from its own outcome',
  )
  t.throws(() => commandLineFor(definition(argv), next({ taps: ['t0'] })), { code: 'MACHINE_UNSUPPORTED' })
  t.end()
})

const chain = [
  { file: '/new/a,b.qcow2', format: 'qcow2' },
  { file: '/new/base.raw', format: 'raw' },
] as const
const disks = [{ name: 'd', overlay: '/run/new/d.qcow2', backing: chain }]
const spelled =
  'backing.driver=qcow2,backing.file.driver=file,backing.file.filename=/new/a,,b.qcow2,' +
  'backing.backing.driver=raw,backing.backing.file.driver=file,backing.backing.file.filename=/new/base.raw'

t.test('the next command line: disks', (t) => {
  const edit = (argv: string[], argument: number) =>
    commandLineFor(definition(argv, [{ name: 'd', argument }]), next({ disks })).slice(1, -5)
  t.same(edit(['qemu', '-drive', 'file=/old,if=virtio,format=raw,id=d,cache=none,backing.driver=raw'], 2), [
    '-drive',
    `if=virtio,id=d,cache=none,file=/run/new/d.qcow2,format=qcow2,${spelled}`,
  ])
  t.same(edit(['qemu', '-hdb', '/old'], 2), [
    '-drive',
    `index=1,media=disk,file=/run/new/d.qcow2,format=qcow2,${spelled}`,
  ])
  t.same(edit(['qemu', '/old'], 1), ['-drive', `index=0,media=disk,file=/run/new/d.qcow2,format=qcow2,${spelled}`])
  const tree = {
    driver: 'qcow2',
    'node-name': 'n',
    file: { driver: 'file', filename: '/run/new/d.qcow2' },
    backing: backingTree(chain),
  }
  const nested = edit(
    ['qemu', '-blockdev', 'driver=raw,node-name=n,discard=unmap,file.driver=file,file.filename=/old,file.aio=native'],
    2,
  )
  t.same(JSON.parse(nested[1]!), { ...tree, discard: 'unmap', file: { ...tree.file, aio: 'native' } })
  const split = edit(
    [
      'qemu',
      ...['-blockdev', '{"driver":"file","node-name":"f","filename":"/old","cache":{"direct":true}}'],
      ...['-blockdev', 'driver=file,node-name=bf,filename=/oldbase', '-blockdev', 'driver=qcow2,node-name=b,file=bf'],
      ...['-blockdev', 'driver=qcow2,node-name=n,file=f,backing=b', '-device', 'virtio-blk,drive=n'],
    ],
    8,
  )
  t.equal(split.length, 4, 'the nodes of the old image are gone')
  t.same(JSON.parse(split[1]!), { ...tree, file: { ...tree.file, cache: { direct: true } } })
  const bare = edit(['qemu', '-blockdev', 'driver=file,node-name=n,filename=/old', '-device', 'virtio-blk,drive=n'], 2)
  t.same(JSON.parse(bare[1]!), tree)
  t.throws(() => commandLineFor(definition(['qemu'], []), next({ disks })), { code: 'MACHINE_UNSUPPORTED' })
  t.end()
})

t.test('command lines that cannot be used again', (t) => {
  for (const line of ['-snapshot', '-drive file=a,snapshot=on', '-chroot /x', '-add-fd fd=3,set=1', '-readconfig x']) {
    t.throws(() => checkCommandLine(words(`qemu ${line}`)), { code: 'MACHINE_UNSUPPORTED' }, line)
  }
  t.doesNotThrow(() => checkCommandLine(words('qemu -drive file=snapshot=on.img -m 64')))
  t.end()
})

t.test('query-block', (t) => {
  const image = (filename: string, more: object = {}) => ({ filename, format: 'qcow2', 'virtual-size': 7, ...more })
  const answer = [
    {
      device: 'd0',
      inserted: {
        'node-name': '#b1',
        ro: false,
        cache: { direct: true },
        image: image('rel.qcow2', { 'backing-image': image('/abs', { format: 'raw' }) }),
      },
    },
    {
      device: '',
      qdev: '/machine/peripheral/disk1/virtio-backend',
      inserted: {
        'node-name': 'n1',
        ro: false,
        image: image('json:{"driver":"qcow2","file":{"driver":"file","filename":"/j"}}'),
      },
    },
    { device: 'cd', inserted: { 'node-name': 'c', ro: true, image: image('nbd://x') } },
    { device: 'empty' },
    { device: 'net', inserted: { 'node-name': 'x', ro: false, image: image('nbd://host/x') } },
    { device: 'vmdk', inserted: { 'node-name': 'y', ro: false, image: image('/v', { format: 'vmdk' }) } },
    { device: 'dev', inserted: { 'node-name': 'z', ro: false, image: image('/dev/sdb', { format: 'raw' }) } },
    { device: 'crypt', inserted: { 'node-name': 'z', ro: false, image: image('/c', { encrypted: true }) } },
    'nonsense',
  ]
  const { disks, unsupported } = readBlockDevices(answer, '/where')
  t.match(disks, [
    {
      name: 'd0',
      node: '#b1',
      bytes: 7,
      cache: { direct: true, noFlush: false },
      layers: [
        { file: '/where/rel.qcow2', format: 'qcow2' },
        { file: '/abs', format: 'raw' },
      ],
    },
    { name: '/machine/peripheral/disk1/virtio-backend', layers: [{ file: '/j', format: 'qcow2' }] },
  ])
  t.same(
    unsupported.map(({ name }) => name),
    ['net', 'vmdk', 'dev', 'crypt'],
  )
  t.same(readBlockDevices(null, '/'), { disks: [], unsupported: [] })
  const argv = words(
    'qemu -drive file=/other,id=d0 -blockdev driver=file,node-name=f,filename=/j -blockdev driver=qcow2,node-name=n1,file=f',
  )
  t.same(findDriveArguments(argv, disks, '/where'), {
    drives: [
      { name: 'd0', argument: 2 },
      { name: '/machine/peripheral/disk1/virtio-backend', argument: 6 },
    ],
    missing: [],
  })
  t.same(
    findDriveArguments(words('qemu -hda rel.qcow2'), disks, '/where').missing,
    [disks[1]!.name],
    'plugged in later',
  )
  const nodes = [
    { 'node-name': 'p', drv: 'file', file: '/abs' },
    { 'node-name': 'q', drv: 'raw', file: '/abs' },
  ]
  t.equal(findNode(nodes, { file: '/abs', format: 'raw' }, '/'), 'q')
  t.equal(findNode([...nodes, ...nodes], { file: '/abs', format: 'raw' }, '/'), null, 'ambiguous')
  t.end()
})

t.test('write-protected ranges of smaps', (t) => {
  const smaps = [
    '7f0000000000-7f0010000000 rw-p 00000000 00:00 0 ',
    'Rss:  10 kB',
    'VmFlags: rd wr mr mw me ac uw sd ',
    '7f0020000000-7f0020001000 rw-p 00000000 00:00 0 ',
    'VmFlags: rd wr mr mw me ac sd ',
  ].join('\n')
  t.same(protectedRanges(smaps), [{ start: 0x7f0000000000n, length: 0x10000000n }])
  t.end()
})
