package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// profile is what `login` and `account set` remember, in a file that only its owner can read.
type profile struct {
	// Endpoint is the service that the rest belongs to.
	Endpoint     string `json:"endpoint"`
	Authority    string `json:"authority"`
	TenantID     string `json:"tenantId,omitempty"`
	ClientID     string `json:"clientId,omitempty"`
	ClientSecret string `json:"clientSecret,omitempty"`
	// CAFile is the PEM file that SSL_CERT_FILE named at login.
	CAFile string `json:"caFile,omitempty"`
	// Subscription is the default one.
	Subscription string `json:"subscription,omitempty"`
	// TokenFile is the file of CAIRN_ACCESS_TOKEN_FILE, which is used instead of the client's secret. It is the environment's alone: whoever renews the
	// token sets the variable.
	TokenFile string `json:"-"`
}

// profileStore reads and writes the profile.
type profileStore struct{ file string }

func newProfileStore(getenv func(string) string) (profileStore, error) {
	dir := getenv("AZURE_CONFIG_DIR")
	if dir == "" {
		home := getenv("HOME")
		if home == "" {
			return profileStore{}, errors.New("neither AZURE_CONFIG_DIR nor HOME is set: nowhere to keep a login")
		}
		dir = filepath.Join(home, ".cairn")
	}
	return profileStore{filepath.Join(dir, "cairnProfile.json")}, nil
}

// load answers an empty profile when there is none.
func (s profileStore) load() (profile, error) {
	var p profile
	raw, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the login: %w", err)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("%s is damaged: %w; remove it and log in again", s.file, err)
	}
	return p, nil
}

func (s profileStore) save(p profile) error {
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".profile-*") // mode 0600
	if err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), s.file)
	}
	if err != nil {
		return fmt.Errorf("keep the login: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func (s profileStore) remove() error {
	if err := os.Remove(s.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the login: %w", err)
	}
	return nil
}

// effective is the stored profile completed from the environment. A login belongs to one service: when CAIRN_ENDPOINT
// names another, the login is left out, so that sourcing an environment always has an effect.
func effective(stored profile, getenv func(string) string) profile {
	env := profile{
		Endpoint:     strings.TrimRight(getenv("CAIRN_ENDPOINT"), "/"),
		Authority:    strings.TrimRight(getenv("AZURE_AUTHORITY_HOST"), "/"),
		TenantID:     getenv("AZURE_TENANT_ID"),
		ClientID:     getenv("AZURE_CLIENT_ID"),
		ClientSecret: getenv("AZURE_CLIENT_SECRET"),
		CAFile:       getenv("SSL_CERT_FILE"),
		Subscription: getenv("AZURE_SUBSCRIPTION_ID"),
	}
	if env.Endpoint != "" && env.Endpoint != stored.Endpoint {
		stored = profile{}
	}
	p := env
	p.TokenFile = getenv("CAIRN_ACCESS_TOKEN_FILE")
	if stored.Endpoint != "" {
		p.Endpoint, p.Authority = stored.Endpoint, stored.Authority
		p.CAFile = stored.CAFile
	}
	if stored.ClientID != "" {
		p.TenantID, p.ClientID, p.ClientSecret = stored.TenantID, stored.ClientID, stored.ClientSecret
	}
	if stored.Subscription != "" {
		p.Subscription = stored.Subscription
	}
	if p.Authority == "" {
		p.Authority = p.Endpoint
	}
	return p
}
