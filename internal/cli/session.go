package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/buildinfo"
	"github.com/cairn-backup/cairn/internal/client"
)

// session is who we are at which service. Everything in it is made when it is first asked for, so that commands that
// need no service work without one.
type session struct {
	profile
	credential azcore.TokenCredential
	transport  *http.Client
	api        *client.Client
}

var errNotLoggedIn = errors.New("Please run 'az login' to setup account: az login --service-principal --username CLIENT_ID " +
	"--password SECRET --tenant TENANT_ID, with CAIRN_ENDPOINT naming the service; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and " +
	"AZURE_CLIENT_SECRET, or CAIRN_ACCESS_TOKEN_FILE")

// client is the Resource Manager API's.
func (s *session) client() (*client.Client, error) {
	if s.api != nil {
		return s.api, nil
	}
	if s.Endpoint == "" {
		return nil, errors.New("no service is known: set CAIRN_ENDPOINT to its address, such as https://HOST:8443, or log in again with it set")
	}
	transport, err := transport(s.CAFile)
	if err != nil {
		return nil, err
	}
	cred, err := s.newCredential(transport)
	if err != nil {
		return nil, err
	}
	api, err := client.New(cred, client.Options{Endpoint: s.Endpoint, Transport: transport,
		UserAgent: "cairn/" + buildinfo.Version})
	if err != nil {
		return nil, err
	}
	s.credential, s.transport, s.api = cred, transport, api
	return api, nil
}

func (s *session) newCredential(transport *http.Client) (azcore.TokenCredential, error) {
	if s.TokenFile != "" {
		return tokenFile(s.TokenFile), nil
	}
	if s.ClientID == "" || s.ClientSecret == "" || s.TenantID == "" {
		return nil, errNotLoggedIn
	}
	opts := &azidentity.ClientSecretCredentialOptions{DisableInstanceDiscovery: true}
	opts.Transport = transport
	opts.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: s.Authority}
	cred, err := azidentity.NewClientSecretCredential(s.TenantID, s.ClientID, s.ClientSecret, opts)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return cred, nil
}

// tokenFile is the name of a file with an access token, which somebody else renews, as Kubernetes does with those of service accounts.
type tokenFile string

// GetToken is azcore.TokenCredential's. The file's token is good for every scope. When it ends is not looked at: it is said to end soon, so that a
// command that runs long reads the file again.
func (f tokenFile) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := os.ReadFile(string(f))
	if err != nil {
		return azcore.AccessToken{}, fmt.Errorf("the access token (CAIRN_ACCESS_TOKEN_FILE): %w", err)
	}
	if len(bytes.TrimSpace(token)) == 0 {
		return azcore.AccessToken{}, fmt.Errorf("the access token (CAIRN_ACCESS_TOKEN_FILE): %s is empty", string(f))
	}
	return azcore.AccessToken{Token: string(bytes.TrimSpace(token)), ExpiresOn: time.Now().Add(time.Minute)}, nil
}

// transport trusts the system's authorities and those of the file.
func transport(caFile string) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("the service's certificate authority (SSL_CERT_FILE): %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the service's certificate authority (SSL_CERT_FILE): %s has no certificate", caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t}, nil
}

const subscriptionsVersion = "2022-12-01"

// subscriptionID is the ID of the subscription that wanted names, by ID or by name, or of the default one.
func (s *session) subscriptionID(ctx context.Context, wanted string) (string, error) {
	if wanted == "" {
		wanted = s.Subscription
	}
	if _, err := uuid.Parse(wanted); err == nil {
		return wanted, nil
	}
	all, err := s.subscriptions(ctx)
	if err != nil {
		return "", err
	}
	for _, sub := range all {
		if wanted == "" || strings.EqualFold(text(sub, "displayName"), wanted) || strings.EqualFold(text(sub, "subscriptionId"), wanted) {
			return text(sub, "subscriptionId"), nil
		}
	}
	if wanted == "" {
		return "", errors.New("no subscription found: the principal has a role on none. Ask an owner for one, with the id of: cairn ad signed-in-user show")
	}
	return "", fmt.Errorf("The subscription of '%s' doesn't exist in cloud '%s'.", wanted, s.cloudName())
}

func (s *session) subscriptions(ctx context.Context) ([]any, error) {
	api, err := s.client()
	if err != nil {
		return nil, err
	}
	return api.List(ctx, client.Request{Path: "/subscriptions", APIVersion: subscriptionsVersion})
}

// cloudName is what az calls an environment; here it is the service's host.
func (s *session) cloudName() string {
	if u, err := url.Parse(s.Endpoint); err == nil && u.Host != "" {
		return u.Host
	}
	return "AzureCloud"
}

// refusedLogin is what the authority said when it gave no token, or empty when err is about something else.
func refusedLogin(err error) string {
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) || failed.RawResponse == nil {
		return ""
	}
	var said struct {
		Description string `json:"error_description"`
	}
	body, readErr := runtime.Payload(failed.RawResponse)
	if readErr != nil || json.Unmarshal(body, &said) != nil {
		return ""
	}
	return said.Description
}
